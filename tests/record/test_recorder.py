import json
import os
import time
from pathlib import Path

import pytest

from runner.errors import ConfigError, TrainingStopped, Unwritable
from runner.record.directions import FIRST_EDITION
from runner.record.files import read_metrics
from runner.record.mirrors import process
from runner.record.mirrors.wandb import WandbFields
from runner.record.recorder import Kept, Recorder


@pytest.fixture(autouse=True)
def no_wandb_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def recorder(folder: Path, **arguments) -> Recorder:
    defaults = {
        "config": {"seed": 3, "api_key": "hunter2"},
        "provenance": {"git": None},
        "directions": FIRST_EDITION,
        "wandb": WandbFields("disabled"),
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
    assert json.loads((folder / "provenance.json").read_text()) == {"git": None}
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
        monkeypatch.setattr(process, "_clients", [])

    return wandb_is


def test_broken_wandb_is_told_once_and_costs_nothing(tmp_path, wandb_is, capfd):
    wandb_is("raise ImportError('broken')")
    with recorder(tmp_path, wandb=WandbFields("offline")) as run:
        for row in ROWS:
            run.row(row)
    assert summary(tmp_path)["status"] == "finished"
    assert read_metrics(tmp_path / "metrics.jsonl") == ROWS
    err = capfd.readouterr().err
    # Of two threads that import it at once, one may get the module half made.
    assert err.count("\n") == 1 and "W&B offline start failed: " in err


def test_wandb_that_hangs_holds_up_neither_rows_nor_exit(
    tmp_path, wandb_is, monkeypatch, capsys
):
    wandb_is("import time\nSettings = dict\ndef init(**_): time.sleep(60)")
    monkeypatch.setattr(process, "finish_limit", lambda: -4.8)
    start = time.monotonic()
    with recorder(tmp_path, wandb=WandbFields("offline")) as run:
        for row in ROWS:
            run.row(row)
    assert time.monotonic() - start < 5
    assert "no answer" in capsys.readouterr().err
    process._clients[-1].process.kill()


def test_a_mirror_that_dies_is_told_once_and_the_next_run_gets_another(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(process, "_clients", [])
    with recorder(tmp_path / "a", wandb=WandbFields("offline")) as run:
        run.row(ROWS[0])
        process._clients[-1].process.kill()
        process._clients[-1].process.wait()
        for row in ROWS[1:]:
            run.row(row)
    assert read_metrics(tmp_path / "a" / "metrics.jsonl") == ROWS
    assert summary(tmp_path / "a")["status"] == "finished"
    assert capsys.readouterr().err.count("its process has ended") == 1
    with recorder(tmp_path / "b", wandb=WandbFields("offline")) as run:
        run.row(ROWS[0])
    assert run._wandb.mode == "offline" and run._wandb.folder.is_dir()
    assert len(process._clients) == 2


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
