"""What the W&B mirror leaves with the real client, offline and on a fake server."""

import json
import math
import signal

import pytest

from helpers.fake_wandb import FakeWandb
from helpers.wandb_process import brought, mirrored, run, summary
from runner.record.mirrors.wandb_reader import extent, wandb_files


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


def test_a_first_run_starts_as_fast_as_others(tmp_path):
    """If wandb imports more at its first run now, let `WandbTracker.load` do so."""
    code = """
import threading
from runner.record.mirrors import follow
from runner.record.mirrors.tracker import source
from runner.record.mirrors.wandb import WandbTracker

def loaded():
    return {name for name in sys.modules if name.startswith("wandb.")}

record("a", trackers={})
WandbTracker.load()
before, cores = loaded(), core_pids()
assert len(cores) == 1
follow.copy(TRACKERS["wandb"], source(Path("a")), lambda: False, print, lambda _: None)
assert core_pids() == cores
assert loaded() == before, loaded() - before
# W&B's reports to its makers are sent by OpenTelemetry's threads.
senders = [t.name for t in threading.enumerate() if t.name.startswith("Otel")]
assert not senders, senders
"""
    run(tmp_path, code)
    assert len(mirrored(tmp_path)["history"]) == 20


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
