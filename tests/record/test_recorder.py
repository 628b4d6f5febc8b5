import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from runner.errors import ConfigError, TrainingStopped, Unwritable
from runner.record.directions import FIRST_EDITION
from runner.record.files import read_metrics
from runner.record.mirrors import helper
from runner.record.recorder import Kept, Recorder


@pytest.fixture(autouse=True)
def no_wandb_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


PROVENANCE = {"git": None, "directions": FIRST_EDITION | {"token_accuracy": "max"}}


def recorder(folder: Path, **arguments) -> Recorder:
    defaults = {
        "config": {"seed": 3, "api_key": "hunter2"},
        "provenance": PROVENANCE,
        "trackers": {},
        "total_steps": 3,
        "quiet": True,
    }
    return Recorder(folder, **{**defaults, **arguments})


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


ROWS = [
    {"step": 1, "train/loss": 3.0, "validation/accuracy": 0.5, "train/grad_norm": 1.0},
    {"step": 2, "train/loss": 1.0, "validation/accuracy": 0.9},
    {"step": 3, "train/loss": 2.0},
]


def test_a_finished_run(tmp_path):
    folder = tmp_path / "deep" / "run"
    with recorder(folder) as run:
        assert summary(folder)["status"] == "running"
        for row in ROWS:
            run.row(row)
        run.finish({"compile_seconds": 1.5})
    assert read_metrics(folder / "metrics.jsonl") == ROWS
    written = summary(folder)
    assert written.pop("wall_seconds") < 10
    assert written == {
        "status": "finished",
        "steps": 3,
        "final": {
            "train/loss": 2.0,
            "validation/accuracy": 0.9,
            "train/grad_norm": 1.0,
        },
        "best": {
            "train/loss": {"value": 1.0, "step": 2},
            "validation/accuracy": {"value": 0.9, "step": 2},
        },
        "compile_seconds": 1.5,
    }
    config = json.loads((folder / "config.json").read_text())
    assert config == {"seed": 3, "api_key": "<redacted>", "format": 2}
    assert json.loads((folder / "provenance.json").read_text()) == PROVENANCE
    assert sorted(os.listdir(folder)) == [
        "checksums.txt",
        "config.json",
        "metrics.jsonl",
        "provenance.json",
        "summary.json",
    ]


@pytest.mark.parametrize(
    "error, status, text, has_trace",
    [
        (ValueError("a\nb"), "failed", "ValueError: a b", True),
        (TrainingStopped("loss is NaN"), "failed", "loss is NaN", False),
        (ConfigError("no"), "failed", "ConfigError: no", False),
        (KeyboardInterrupt(), "interrupted", None, False),
        (SystemExit(143), "interrupted", None, False),
    ],
)
def test_runs_that_end_early(tmp_path, error, status, text, has_trace):
    with pytest.raises(type(error)), recorder(tmp_path) as run:
        run.row(ROWS[0])
        raise error
    written = summary(tmp_path)
    assert (written["status"], written["steps"]) == (status, 1)
    assert text is None or text in written["error"]
    assert ("error" in written) == (text is not None)
    assert (tmp_path / "error.txt").exists() == has_trace
    if has_trace:
        trace = (tmp_path / "error.txt").read_text()
        assert "Traceback" in trace and "raise error" in trace


def test_nan_is_never_best(tmp_path):
    with recorder(tmp_path) as run:
        run.row({"step": 1, "train/loss": float("nan")})
        run.row({"step": 2, "train/loss": 2.0})
        run.row({"step": 3, "train/loss": float("nan")})
    assert summary(tmp_path)["best"] == {"train/loss": {"value": 2.0, "step": 2}}
    assert summary(tmp_path)["final"] == {"train/loss": "NaN"}


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run: it must be writable"):
        recorder(tmp_path / "file" / "run").__enter__()


def test_a_folder_that_could_not_be_written_can_be_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("runner.record.recorder.write_json", full)
        with pytest.raises(ConfigError, match=r"config\.json: No space") as told:
            recorder(tmp_path).__enter__()
    with recorder(tmp_path):  # though the error is still there, as in a notebook
        assert told.value.__traceback__


def full(path, value):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_rows_of_another_run_are_kept(tmp_path):
    with recorder(tmp_path) as run:
        run.row(ROWS[0])
    with pytest.raises(ConfigError, match="rows of an earlier run"):
        recorder(tmp_path).__enter__()
    with recorder(tmp_path, kept=Kept(tmp_path / "metrics.jsonl", 3, 0.0)) as run:
        run.row(ROWS[1])
    assert read_metrics(tmp_path / "metrics.jsonl") == ROWS[:2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_ends_the_run(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(Unwritable, match=r"metrics\.jsonl can't be .*No space left"):
        with recorder(tmp_path) as run:
            run.row(ROWS[0])
    assert summary(tmp_path)["status"] == "failed"


@pytest.fixture
def wandb_is(tmp_path, monkeypatch):
    """Let the process that mirrors import another `wandb`."""

    def wandb_is(code: str) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "wandb.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
        monkeypatch.setattr(helper, "_helpers", helper._Helpers())

    return wandb_is


WANDB = {
    "trackers": {"wandb": {"_target_": "runner.record.mirrors.wandb.WandbTracker"}},
    "config": {"wandb": {"mode": "offline"}},
}


def test_broken_wandb_is_told_once_and_costs_nothing(tmp_path, wandb_is, capfd):
    wandb_is("raise ImportError('broken')")
    with recorder(tmp_path, **WANDB) as run:
        for row in ROWS:
            run.row(row)
    run.mirror.wait()
    assert summary(tmp_path)["status"] == "finished"
    assert read_metrics(tmp_path / "metrics.jsonl") == ROWS
    assert run.mirror.states()["wandb"]["problem"]
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "W&B start failed: ImportError: broken" in err


def test_wandb_that_hangs_holds_up_neither_rows_nor_exit(
    tmp_path, wandb_is, monkeypatch, capsys
):
    wandb_is("import time\nSettings = dict\ndef init(**_): time.sleep(60)")
    monkeypatch.setattr(helper, "WAIT_SECONDS", 0.2)
    start = time.monotonic()
    with recorder(tmp_path, quiet=False, **WANDB) as run:
        for row in ROWS:
            run.row(row)
    assert time.monotonic() - start < 5
    err = capsys.readouterr().err
    assert "W&B: no answer in time" in err and "incomplete" in err
    helper._helpers[-1].process.kill()


def test_one_command_brings_all_that_is_incomplete(tmp_path):
    kinds = {"wandb": "Wandb", "csv": "Csv", "tensorboard": "TensorBoard"}
    specs = {k: f"runner.record.mirrors.{k}.{kinds[k]}Tracker" for k in kinds}
    trackers = {name: {"_target_": spec} for name, spec in specs.items()}
    mirror = helper.Mirror(tmp_path / "run", trackers, WANDB["config"])
    mirror._places = {name: tmp_path / name for name in kinds}
    states = {"wandb": (True, "no answer"), "csv": (True, "")}  # tensorboard: none yet
    for name, (over, problem) in states.items():
        state = {"over": over, "problem": problem, "where": f"a {name}"}
        (tmp_path / name).write_text(json.dumps(state))
    command = f"python -m runner.mirror {tmp_path}/run 'tracker=[tensorboard,wandb]'"
    assert mirror.locations() == {
        "W&B": f"incomplete: {command}",
        "CSV": "a csv",
        "TensorBoard": f"incomplete: {command}",
    }


@pytest.fixture
def csv_only(monkeypatch):
    """A process of its own that mirrors, and a tracker that needs nothing."""
    monkeypatch.setattr(helper, "_helpers", helper._Helpers())
    monkeypatch.setattr(helper, "WAIT_SECONDS", 60.0)
    return {"csv": {"_target_": "runner.record.mirrors.csv.CsvTracker"}}


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_mirror_that_dies_or_stalls_is_replaced_and_lacks_nothing(
    tmp_path, monkeypatch, csv_only, fault
):
    monkeypatch.setattr(helper, "_STALLED_SECONDS", 2.0)
    with recorder(tmp_path, trackers=csv_only) as run:
        run.row(ROWS[0])
        while not (tmp_path / "metrics.csv").exists():
            time.sleep(0.01)
        helper._helpers[-1].process.send_signal(fault)
        for row in ROWS[1:]:
            run.row(row)
    run.mirror.wait()
    assert not run.mirror.states()["csv"]["problem"]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3"]


def test_nobody_waits_for_the_mirror_of_a_folder_that_was_removed(tmp_path, csv_only):
    folder = tmp_path / "run"
    with recorder(folder, trackers=csv_only) as run:
        run.row(ROWS[0])
        while not (folder / "metrics.csv").exists():
            time.sleep(0.01)
        mirroring = helper._helpers[-1].process
        mirroring.send_signal(signal.SIGSTOP)
    shutil.rmtree(folder)
    mirroring.send_signal(signal.SIGCONT)
    started = time.monotonic()
    run.mirror.wait()
    assert time.monotonic() - started < 4  # a look at a lock comes every 5 s


def test_a_mirror_that_always_dies_is_told_once_and_the_next_run_gets_another(
    tmp_path, monkeypatch, capsys, csv_only
):
    monkeypatch.setattr(helper, "_RESTARTS", 1)
    with recorder(tmp_path / "a", trackers=csv_only) as run:
        run.row(ROWS[0])
        helper._helpers[-1].process.kill()
        while not helper._helpers[-1].has_ended:
            time.sleep(0.01)
    run.mirror.wait()
    assert summary(tmp_path / "a")["status"] == "finished"
    assert capsys.readouterr().err.count("their process has ended") == 1
    with recorder(tmp_path / "b", trackers=csv_only) as run:
        run.row(ROWS[0])
    run.mirror.wait()
    assert (tmp_path / "b" / "metrics.csv").exists() and len(helper._helpers) == 2


@pytest.fixture
def two(monkeypatch):
    """Two runs are worth a second process that mirrors, on any machine."""
    monkeypatch.setattr(helper, "_RUNS_EACH", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def test_the_runs_of_a_large_sweep_are_shared_by_two_processes(
    tmp_path, monkeypatch, csv_only, two
):
    monkeypatch.setattr(helper, "_RESTARTS", 1)
    monkeypatch.setattr("runner.record.mirrors.csv.CsvTracker.processes", 2)

    def record(name):
        with recorder(tmp_path / name, trackers=csv_only) as run:
            run.row(ROWS[0])
        return run.mirror

    helper.prepare(csv_only, {}, runs=4)
    mirrors = [record(name) for name in "abcd"]
    one, other = helper._helpers
    assert [len(each.places) for each in (one, other)] == [2, 2]
    for mirror in mirrors:
        mirror.wait()
    one.kill()
    while not one.has_ended:
        time.sleep(0.01)
    mirrors += [record(name) for name in "ef"]
    assert [len(each.places) for each in helper._helpers] == [2, 4]
    for mirror, name in zip(mirrors, "abcdef", strict=True):
        mirror.wait()
        assert mirror.states()["csv"]["over"]
        assert (tmp_path / name / "metrics.csv").exists()


def test_a_tracker_has_one_process_unless_it_gains_by_more(csv_only, two):
    helper.prepare(csv_only, {}, runs=1000)
    assert len(helper._helpers) == 1


def test_what_two_processes_say_is_told_once(tmp_path, wandb_is, capfd, two):
    wandb_is("raise ImportError('broken')")
    helper.prepare(WANDB["trackers"], WANDB["config"], runs=2)
    mirrors = []
    for name in "ab":
        with recorder(tmp_path / name, **WANDB) as run:
            run.row(ROWS[0])
        mirrors.append(run.mirror)
    for mirror in mirrors:
        mirror.wait()
        assert mirror.states()["wandb"]["problem"]
    assert [len(each.places) for each in helper._helpers] == [1, 1]
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "W&B start failed: ImportError: broken" in err


def test_quiet_is_quiet_and_its_opposite_says_where_everything_is(tmp_path, capsys):
    with recorder(tmp_path / "quiet") as run:
        run.row(ROWS[0])
    assert capsys.readouterr() == ("", "")
    with recorder(tmp_path / "loud", quiet=False) as run:
        run.row(ROWS[0])
    out, err = capsys.readouterr()
    assert not out
    assert "step 1/3" in err and "finished, 1 steps" in err
    assert str(tmp_path / "loud" / "metrics.jsonl") in err
