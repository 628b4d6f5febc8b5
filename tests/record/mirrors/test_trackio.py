"""The Trackio mirror, read back by Trackio's own API and storage."""

import json
import shutil
from pathlib import Path

import pytest

from runner.mirror.__main__ import main
from runner.record.files import read_metrics
from runner.record.mirrors.tracker import source
from runner.record.mirrors.trackio import TrackioTracker

FIRST_EDITION = Path(__file__).parents[2] / "fixtures" / "first_edition"


@pytest.fixture(scope="module")
def trackio(tmp_path_factory):
    """Trackio with a folder of its own, which it chooses when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        patch.setenv("TRACKIO_STORAGE_MODE", "sqlite")
        yield pytest.importorskip("trackio", reason="needs the extra trackio")


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(FIRST_EDITION / "single", tmp_path / "single"))


def history(trackio, folder: Path) -> tuple[list[dict], dict, list[dict]]:
    """The rows, the configuration and the alerts of the run, by its id."""
    (run,) = [
        r for r in trackio.Api().runs("runner") if r.id == source(folder).identity
    ]
    storage = trackio.sqlite_storage.SQLiteStorage
    logs = storage.get_logs("runner", run.name, run_id=run.id)
    rows = [{k: v for k, v in row.items() if k != "timestamp"} for row in logs]
    return rows, run.config, run.alerts()


ODD = '{"train/loss": "NaN", "eval/loss": "-Infinity", "step": 7000}\n'


def test_each_row_is_there_once_however_often_it_is_mirrored(
    trackio, run, capsys, monkeypatch
):
    monkeypatch.setattr("runner.record.mirrors.trackio._ROWS", 4)
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    # The last is a run that went back to a checkpoint and has ended there.
    for content in (lines[:-2], [*lines, ODD], lines[:5]):
        path.write_text("".join(content))
        assert main([str(run), "tracker=trackio"]) == 0
        assert "trackio show --project runner" in capsys.readouterr().out
        rows, config, alerts = history(trackio, run)
        expected = read_metrics(path)
        assert len(rows) == len(expected) == len(content)
        for ours, theirs in zip(expected, rows, strict=True):
            assert repr(sorted(ours.items())) == repr(sorted(theirs.items()))
    recorded = json.loads((run / "config.json").read_text())
    assert config["optimizer"] == recorded["optimizer"]
    assert config["provenance"].keys() and not alerts


def test_the_test_numbers_and_a_bad_end_are_there(trackio, run):
    end = {"status": "failed", "steps": 20, "final": {"test/loss": 0.5}, "error": "no"}
    (run / "summary.json").write_text(json.dumps(end))
    for _ in range(2):
        assert main([str(run), "tracker=trackio"]) == 0
    rows, _, alerts = history(trackio, run)
    assert len(rows) == 21 and rows[-1] == {"test/loss": 0.5, "step": 20}
    (alert,) = alerts
    shown = [alert[key] for key in ("title", "text", "level", "step")]
    assert shown == ["failed", "no", "warn", 20]


def test_while_no_rows_come_nothing_is_written(trackio, run, monkeypatch):
    monkeypatch.setattr("runner.record.mirrors.trackio._SECONDS", 0.0)
    written = []
    tracker = TrackioTracker(source(run))
    tracker.open()
    monkeypatch.setattr(
        tracker._storage, "bulk_log", lambda *_, steps, **__: written.append(steps)
    )
    for row in ({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}):
        for _ in range(3):
            tracker.flush()
        tracker.row(row)
    tracker.flush()
    assert written == [[1], [2]]


def test_a_network_file_system_is_refused(trackio, run, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    assert main([str(run), "tracker=trackio"]) == 1
    assert "TRACKIO_STORAGE_MODE=sqlite" in capsys.readouterr().out
