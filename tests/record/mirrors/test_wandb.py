"""The W&B mirror against the real client: offline files, a fake server, and faults."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.fake_wandb import FakeWandb
from helpers.wandb_run import wandb_run
from runner.record.files import read_metrics
from runner.record.mirrors.wandb_reader import extent, read_run, wandb_files

# Each run is a process of its own, as wandb keeps one core process a process.
RUN = """
import json, os, secrets, signal, subprocess, sys, time
from pathlib import Path
from runner.record.mirrors import helper
from runner.record.recorder import Recorder

helper.WAIT_SECONDS = 60.0  # on a machine that is busy
TRACKERS = {"wandb": {"_target_": "runner.record.mirrors.wandb.WandbTracker"}}
FIELDS = {"mode": "offline", "project": "runner", "group": "sweep", "name": "lr=0.1",
          "job_type": "train", "tags": ["adam"]}

def recorder_of(folder, rows=20, kept=None, id=None, trackers=TRACKERS, config={},
                **fields):
    config = {"wandb": FIELDS | fields, **config}
    provenance = {"wandb_id": id or secrets.token_hex(4), "directions": {"loss": "min"}}
    return Recorder(Path(folder), config=config, quiet=True, total_steps=rows,
                    provenance=provenance, trackers=trackers, kept=kept)

def record(folder, rows=20, each=lambda step: None, config={}, **given):
    global recorder
    config = {"optimizer": {"name": "adam"}, "seed": 3, **config}
    with recorder_of(folder, rows, config=config, **given) as recorder:
        for step in range(1, rows + 1):
            each(step)
            recorder.row({"step": step, "train/loss": 1 / step})
        recorder.finish({"compile_seconds": 0.5})
    recorder.mirror.wait()
    return recorder

def core_pids():
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats.append(path.read_text().split())
        except OSError:  # that process has just ended
            pass
    mirrors = {str(one.process.pid) for one in helper._helpers}
    ours = [s for s in stats if s[1] == "(wandb-core)" and s[3] in mirrors]
    return [int(stat[0]) for stat in ours]

def wait_for_start():
    while not recorder.mirror.states()["wandb"].get("where"):
        time.sleep(0.02)
"""


def clean_env(env):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return {
        **inherited,
        "WANDB_INIT_TIMEOUT": "3",
        "WANDB_FINISH_TIMEOUT": "3",
        "WANDB_ERROR_REPORTING": "false",
        **env,
    }


def start(folder: Path, code: str, **env):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN + code],
        cwd=folder,
        env=clean_env(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, code: str, expect: int = 0, **env) -> str:
    process = start(folder, code, **env)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == expect, err
    return out + err


def mirrored(folder: Path) -> dict:
    # A failed online start leaves an empty folder beside the offline one.
    runs = [wandb_run(path) for path in wandb_files(folder)]
    (run,) = [run for run in runs if run["history"]]
    return run


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_offline_run_is_complete_when_the_block_ends(tmp_path):
    code = """
recorder = record("a", 300, config={"api_key": "hunter2", "bad": float("nan")})
data = [p.read_bytes() for p in Path("a").rglob("run-*.wandb") if not p.is_symlink()]
Path("copy").mkdir(); Path("copy/run-x.wandb").write_bytes(data[0])
record("b")
"""
    run(tmp_path, code)
    for folder, rows in (("a", 300), ("copy", 300), ("b", 20)):
        back = mirrored(tmp_path / folder)
        assert [row["step"] for row in back["history"]] == [*range(1, rows + 1)]
        assert back["exit_code"] == 0
    back = mirrored(tmp_path / "a")
    assert back["config"]["optimizer"] == {"name": "adam"}
    assert back["config"]["api_key"] == "<redacted>"
    assert back["config"]["bad"] == "NaN"
    assert back["summary"]["best/train/loss"] == pytest.approx(1 / 300)
    assert (back["group"], back["job_type"]) == ("sweep", "train")
    assert (back["name"], back["tags"]) == ("lr=0.1", ["adam"])
    for path in (tmp_path / "a").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    (file,) = wandb_files(tmp_path / "a")
    assert extent(file) == (300, 300, 0)
    rows, *end = extent(file, 1 << 15)
    assert 0 < rows < 300 and end == [300, 0]
    file.write_bytes(file.read_bytes()[:-300])  # as a full disk does
    assert extent(file)[2] is extent(file, 1 << 15)[2] is None


def test_numbers_that_are_not_finite(tmp_path):
    code = """
with recorder_of(".") as recorder:
    recorder.row({"step": 1, "train/loss": float("nan"), "x": float("inf")})
    recorder.row({"step": 2, "train/loss": 1.0})
"""
    run(tmp_path, code)
    first, second = mirrored(tmp_path)["history"]
    assert math.isnan(float(first["train/loss"])) and second["train/loss"] == 1
    assert summary(tmp_path)["best"]["train/loss"] == {"value": 1.0, "step": 2}


def test_variables_win_over_settings(tmp_path):
    code = 'record("a", mode="online")'
    variables = {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "mine",
        "WANDB_RUN_GROUP": "g",
        "WANDB_NAME": "n",
        "WANDB_TAGS": "t,u",
        "WANDB_JOB_TYPE": "j",
        "WANDB_RUN_ID": "theirs",
        "WANDB_DIR": str(tmp_path / "elsewhere"),
    }
    run(tmp_path, code, **variables)
    back = mirrored(tmp_path / "elsewhere")
    names = ("project", "group", "name", "tags", "job_type", "id")
    assert [back[n] for n in names] == ["mine", "g", "n", ["t", "u"], "j", "theirs"]


def test_a_commit_as_an_id_is_no_secret_and_nothing_is_mirrored_twice(tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    run(tmp_path, 'record("a")', WANDB_RUN_ID=commit)
    brought(tmp_path, "a", "wandb=offline", WANDB_RUN_ID=commit)
    assert mirrored(tmp_path)["id"] == commit


def test_disabled_never_imports_wandb(tmp_path):
    code = """
from runner.record.mirrors import helper
record("a", mode="disabled")
assert "wandb" not in sys.modules and "rich" not in sys.modules, "imported"
os.environ["WANDB_MODE"] = "disabled"
record("b")
assert "wandb" not in sys.modules, "imported"
assert not helper._helpers, "started"
"""
    run(tmp_path, code)
    assert not wandb_files(tmp_path)


@pytest.mark.parametrize(
    "statement, exit_code, status, returned",
    [
        ("raise RuntimeError('out of luck')", 1, "failed", 1),
        ("sys.exit(3)", 3, "interrupted", 3),
        ("sys.exit(0)", 1, "interrupted", 0),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted", -signal.SIGINT),
    ],
)
def test_every_ending_finishes_the_run(
    tmp_path, statement, exit_code, status, returned
):
    code = f"""
def end(step):
    if step == 11:
        {statement}
record(".", each=end)
"""
    run(tmp_path, code, expect=returned)
    back = mirrored(tmp_path)
    assert back["exit_code"] == exit_code and len(back["history"]) == 10
    assert summary(tmp_path)["status"] == status
    assert summary(tmp_path)["steps"] == 10


def test_online_run_arrives(tmp_path):
    code = """
ballast = b"x" * (300 << 20)
def each(step):
    if step == 5:
        Path("a/runner.log").write_text("began with api_key=hunter2")
        Path("a/state.safetensors").write_bytes(b"weights")
    if step == 20:
        wait_for_start()
        time.sleep(1)
record("a", each=each, log_model=True)
maps = Path(f"/proc/{helper._helpers[-1].process.pid}/maps")  # without JAX it is small
assert not maps.exists() or "jaxlib" not in maps.read_text()
record("b", 5)
"""
    with FakeWandb() as server:
        env = server.env() | {"WANDB_X_STATS_SAMPLING_INTERVAL": "0.2"}
        out = run(tmp_path, code, **env)
    assert not server.unknown
    first, second = server.runs.values()
    assert first.config["optimizer"] == {"name": "adam"}
    assert first.config["provenance"]["wandb_id"] == first.name
    assert (first.last("groupName"), first.last("displayName")) == ("sweep", "lr=0.1")
    assert [row["step"] for row in first.history] == [*range(1, 21)]
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert len(second.history) == 5
    assert out.count("W&B: http") == 2
    # The step is the axis, and a metric with a direction has its best value beside
    # the last one.
    defined = json.loads(first.last("config"))["_wandb"]["value"]["m"]
    axis = [metric.get("1") for metric in defined].index("step") + 1
    names = ("train/loss", "*")
    shown = [m for m in defined if m.get("1", m.get("2")) in names]
    assert [metric["5"] for metric in shown] == [axis, axis]
    assert first.summary["train/loss"] == {"min": 0.05, "last": 0.05}
    # The trainer's own memory, not the helper's; its log; its model.
    assert max(e.get("system.proc.memory.rssMB", 0) for e in first.events) > 300
    assert server.uploads["output.log"] == b"began with api_key=<redacted>"
    assert server.uploads["state.safetensors"] == b"weights"
    (model,) = server.artifacts
    assert model["artifactTypeName"] == "model"
    assert model["artifactCollectionName"] == f"model-{first.name}"


@pytest.mark.nightly
def test_a_model_that_cannot_be_uploaded_costs_no_row(tmp_path):
    code = """
def each(step):
    if step == 20:
        Path("a/state.safetensors").write_bytes(b"weights")
print(record("a", each=each, log_model=True).mirror.locations())
"""
    with FakeWandb() as server:
        server.fail = lambda operation: 404 if "Artifact" in operation else None
        assert "incomplete" in run(tmp_path, code, **server.env())
        (only,) = server.runs.values()
        assert (len(only.history), only.exit_code) == (20, 0)
        server.fail = lambda operation: None
        brought(tmp_path, "a", "wandb=online", **server.env())
    assert server.uploads["state.safetensors"] == b"weights"
    assert [row["step"] for row in only.history] == [*range(1, 21)]


def test_dead_server_falls_back_to_offline_once_for_all_runs(tmp_path):
    code = """
record("a", mode="online", id="abc")
start = time.monotonic()
record("b", mode="online", id="def")
assert time.monotonic() - start < 2, "waited for the dead server again"
"""
    env = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "k" * 40}
    out = run(tmp_path, code, **env)
    assert out.count("W&B online start failed: CommError") == 1
    for folder, name in (("a", "abc"), ("b", "def")):
        back = mirrored(tmp_path / folder)
        rows = read_metrics(tmp_path / folder / "metrics.jsonl")
        assert len(back["history"]) == len(rows) == 20
        assert back["exit_code"] == 0 and back["id"] == name


def test_runs_side_by_side_survive_a_dead_server(tmp_path):
    code = """
from contextlib import ExitStack
with ExitStack() as stack:
    members = [
        stack.enter_context(recorder_of(name, mode="online", id=name))
        for name in "abcdef"
    ]
    for step in range(1, 21):
        for member in members:
            member.row({"step": step, "train/loss": 1 / step})
"""
    env = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "k" * 40}
    out = run(tmp_path, code, **env)
    assert out.count("W&B online start failed") == 1
    for name in "abcdef":
        assert len(mirrored(tmp_path / name)["history"]) == 20


def test_refused_key_falls_back_to_offline(tmp_path):
    with FakeWandb() as server:
        server.status = 401
        out = run(tmp_path, 'record(".")', **server.env())
    assert "W&B online start failed" in out and "401" in out
    assert len(mirrored(tmp_path)["history"]) == 20


def test_server_that_dies_in_mid_run_costs_a_bounded_wait(tmp_path):
    code = """
helper.WAIT_SECONDS = 5.0
def slow(step):
    if step == 10:
        wait_for_start()
        time.sleep(0.5)
        print("half", flush=True)
        time.sleep(0.5)
record(".", each=slow)
"""
    with FakeWandb() as server:
        process = start(tmp_path, code, **server.env())
        assert process.stdout is not None
        while "half" not in process.stdout.readline():
            assert process.poll() is None
        server.down = True
        begin = time.monotonic()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert time.monotonic() - begin < 12
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 20
    assert len(mirrored(tmp_path)["history"]) == 20  # for `wandb sync`
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_core_loses_no_row_and_no_later_run(tmp_path):
    code = """
def kill(step):
    if step == 10:
        wait_for_start()
        time.sleep(0.3)
        assert core_pids()
        for pid in core_pids():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
record("a", each=kill)
record("b")
"""
    out = run(tmp_path, code)
    assert "failed" not in out
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 20
    assert summary(tmp_path / "a")["status"] == "finished"
    parts = [read_run(path)["history"] for path in wandb_files(tmp_path / "a")]
    steps = [row["step"] for history in parts for row in history]
    assert sorted(steps) == [*range(1, 21)]
    assert len(mirrored(tmp_path / "b")["history"]) == 20


def test_killed_process_keeps_every_row_it_was_told(tmp_path):
    code = """
def told(step):
    print(step - 1, flush=True)
    time.sleep(0.002)
record(".", 100_000, each=told)
"""
    process = start(tmp_path, code)
    assert process.stdout is not None
    told = 0
    while told < 500:
        told = int(process.stdout.readline())
    process.kill()
    told = int((process.stdout.read().split() or [told])[-1])
    process.communicate()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(1, len(rows) + 1)]
    assert len(rows) >= told
    assert summary(tmp_path)["status"] == "running"


RESUMED = """
def part(first, last, kept=None, rest="", **given):
    global recorder
    with recorder_of(".", kept=kept, id="abc", **given) as recorder:
        for step in range(first, last + 1):
            recorder.row({"step": step, "train/loss": 1 / step})
        exec(rest)

from runner.record.recorder import Kept
from runner.errors import Preempted
kept = Kept(Path("metrics.jsonl"), 8, 0.0)
"""
KILLED = "wait_for_start(); time.sleep(1.5); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "ending, code",
    [
        pytest.param(KILLED, -9, marks=pytest.mark.nightly),
        ("raise Preempted(15)", 75),
    ],
)
def test_resumed_offline_each_row_is_there_once(tmp_path, ending, code):
    run(tmp_path, RESUMED + f"part(1, 12, rest={ending!r})", expect=code)
    run(tmp_path, RESUMED + "part(9, 20, kept)")
    runs = [wandb_run(path) for path in wandb_files(tmp_path)]
    assert [run["id"] for run in runs] == ["abc", "abc"]
    history = sorted(
        (row["step"], row["train/loss"]) for r in runs for row in r["history"]
    )
    assert history == [(step, 1 / step) for step in range(1, 21)]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 20
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(
    "ending, code",
    [
        (KILLED, -9),
        pytest.param("raise Preempted(15)", 75, marks=pytest.mark.nightly),
    ],
)
def test_resumed_online_it_is_one_run_with_each_row_once(tmp_path, ending, code):
    begun = RESUMED + f"part(1, 12, rest={ending!r}, mode='online')"
    with FakeWandb() as server:
        run(tmp_path, begun, expect=code, **server.env())
        run(tmp_path, RESUMED + "part(9, 20, kept, mode='online')", **server.env())
    assert not server.unknown
    (only,) = server.runs.values()
    assert [row["step"] for row in only.history] == [*range(1, 21)]
    assert (only.exit_code, only.was_preempted) == (0, code == 75)


def brought(folder: Path, *arguments: str, expect: int = 0, **env) -> str:
    """What `python -m runner.mirror` says."""
    env = clean_env(env | {"WANDB_INIT_TIMEOUT": "20"})
    env.pop("WANDB_MODE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "runner.mirror", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "fault, said",
    [
        ({"status": 403}, "offline"),
        pytest.param(
            {"fail": lambda op: 404 if op == "file_stream" else None},
            "incomplete",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_what_a_faulty_server_lacks_is_brought_later_and_once(tmp_path, fault, said):
    code = """
with recorder_of("a", mode="online", id="abc") as recorder:
    for step in range(1, 21):
        recorder.row({"step": step, "train/loss": 1 / step})
recorder.mirror.wait()
print(recorder.mirror.locations())
"""
    with FakeWandb() as server:
        vars(server).update(fault)
        assert said in run(tmp_path, code, **server.env())
        server.status, server.fail = None, lambda operation: None
        for _ in range(2):
            brought(tmp_path, "a", "wandb=online", **server.env())
    assert not server.unknown
    (only,) = server.runs.values()
    rows = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [{k: row[k] for k in rows[0]} for row in only.history] == rows
    assert only.exit_code == 0
