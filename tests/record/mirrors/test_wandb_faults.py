"""No row is lost with a server that is dead or refuses, or a process that is killed."""

import time
from pathlib import Path

import pytest

from helpers.fake_wandb import FakeWandb
from helpers.wandb_process import brought, mirrored, run, start, summary
from runner.record.files import read_metrics
from runner.record.mirrors.wandb_reader import read_run, wandb_files


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
