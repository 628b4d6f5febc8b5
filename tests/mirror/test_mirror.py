"""python -m runner.mirror, in process, with the trackers that are files."""

import csv
import errno
import io
import json
import math
import os
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from runner.mirror.__main__ import main
from runner.record.files import read_metrics
from runner.record.mirrors import follow, process
from runner.record.mirrors.tracker import Tracker, source

FIRST_EDITION = Path(__file__).parents[1] / "fixtures" / "first_edition"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(FIRST_EDITION, tmp_path / "runs")
    return tmp_path / "runs"


def test_a_folder_of_the_first_edition_becomes_tables_again_and_again(runs, capsys):
    for _ in range(2):
        assert main([str(runs), "tracker=csv"]) == 0
    folders = [path.parent for path in runs.rglob("metrics.jsonl")]
    assert capsys.readouterr().out.count("CSV: ") == 2 * len(folders) > 2
    for folder in folders:
        with (folder / "metrics.csv").open(newline="") as file:
            table = [
                {k: float(v) for k, v in row.items() if v}
                for row in csv.DictReader(file)
            ]
        assert table == read_metrics(folder / "metrics.jsonl")


def test_tensorboard_reads_back_what_was_mirrored(runs):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    folder = runs / "single"
    for _ in range(2):
        assert main([str(folder), "tracker=[tensorboard,csv]"]) == 0
    events = reader.EventAccumulator(str(folder / "tensorboard")).Reload()
    rows = read_metrics(folder / "metrics.jsonl")
    for name in rows[0].keys() - {"step"}:
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in rows]


def test_a_job_is_named_as_its_sweep_names_it(runs, monkeypatch):
    job = runs / "framework=jax,seed=7"
    (runs / "single").rename(job)
    monkeypatch.chdir(runs)
    assert main([job.name, "tracker=csv"]) == 0
    assert (job / "metrics.csv").is_file()


def test_a_job_that_never_began_is_left_out(runs):
    (runs / "sweep" / "none").mkdir(parents=True)
    (runs / "sweep" / "none" / "summary.json").write_text('{"status": "failed"}')
    assert main([str(runs), "tracker=csv"]) == 0


def test_a_run_that_cannot_be_read_keeps_no_other_from_its_copy(runs, capsys):
    (runs / "odd").mkdir()
    (runs / "odd" / "config.json").write_text('{"wandb": 3}')
    assert main([str(runs / "odd"), str(runs / "single"), "tracker=csv"]) == 1
    assert "odd: can't be read" in capsys.readouterr().err
    assert (runs / "single" / "metrics.csv").is_file()


def test_where_nothing_can_be_locked_a_run_goes_on(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "metrics.jsonl").touch()
    monkeypatch.setattr("fcntl.flock", unsupported)
    monkeypatch.setattr(process, "_LOCK_SECONDS", 0.0)
    mirrors = process._Mirrors(tmp_path, os.getppid(), threading.Thread())
    is_writing = mirrors._is_writing(tmp_path)
    assert all(is_writing() for _ in range(3))


MISTAKES = {
    "a run has a config.json": ["empty", "tracker=csv"],
    "only tracker and wandb can": ["runs", "optimizer=sgd"],
    "nothing to bring the runs to": ["runs", "tracker=none"],
    "Did you mean 'csv'?": ["runs", "tracker=cvs"],
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_one_message(runs, monkeypatch, capsys, said):
    monkeypatch.chdir(runs.parent)
    Path("empty").mkdir()
    assert main(MISTAKES[said]) == 1
    assert said.lower() in capsys.readouterr().err.lower()


def test_a_run_that_wants_no_wandb_says_how_it_would_get_it(runs, capsys):
    assert main([str(runs / "single")]) == 0
    assert "wandb=offline or wandb=online mirrors it" in capsys.readouterr().out


def test_a_killed_run_ends_and_its_torn_row_is_none(runs):
    path = runs / "single" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    (runs / "single" / "summary.json").write_text('{"status": "running"}')
    assert main([str(runs / "single"), "tracker=csv"]) == 0
    lines = (runs / "single" / "metrics.csv").read_text().splitlines()
    assert len(lines) - 1 == len(read_metrics(path))


def test_a_row_larger_than_what_is_read_at_once_is_mirrored(runs, monkeypatch):
    monkeypatch.setattr(follow, "_CHUNK", 10)
    assert main([str(runs / "single"), "tracker=csv"]) == 0
    lines = (runs / "single" / "metrics.csv").read_text().splitlines()
    assert len(lines) - 1 == len(read_metrics(runs / "single" / "metrics.jsonl"))


@pytest.fixture
def with_files(runs, tmp_path):
    """A run folder with what hooks leave, and a link to what is no part of it."""
    folder = runs / "single"
    config = json.loads((folder / "config.json").read_text())
    config["callbacks"] = {"mine": {"_target_": "mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    counts = {"probe/h/low": -1.0, "probe/h/high": 1.0, "probe/h/counts": [1.0, 3.0]}
    others = {"probe/list": [1.0, 2.0], "probe/nan": "NaN"}
    path = folder / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    first = json.dumps(json.loads(first) | counts | others)
    path.write_text("\n".join([first, *rest]) + "\n")
    files = folder / "files/mine"
    files.mkdir(parents=True)
    (files / "20.txt").write_text("a text")
    (files / "3.png").write_bytes(png())
    (files / "notes.txt").write_text("of no step")
    (tmp_path / "secret").write_text("a secret")
    (files / "4.txt").symlink_to(tmp_path / "secret")
    return folder


def png():
    data = io.BytesIO()
    Image.new("L", (4, 2)).save(data, "png")
    return data.getvalue()


class Listing(Tracker):
    seen: ClassVar[list] = []

    def file(self, path, step):
        self.seen.append((path.name, step))


def test_a_tracker_gets_the_files_of_callbacks(with_files):
    spec = {"_target_": f"{__name__}.Listing"}
    found = follow.copy(spec, source(with_files), lambda: False, print, print)
    assert not found.problem
    assert Listing.seen == [("3.png", 3), ("20.txt", 20)]


def test_tensorboard_shows_them(with_files, caplog):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    assert main([str(with_files), "tracker=tensorboard"]) == 0
    events = reader.EventAccumulator(str(with_files / "tensorboard")).Reload()
    (image,) = events.Images("files/mine.png")
    assert (image.step, image.width, image.height) == (3, 4, 2)
    text = events.Tensors("files/mine.txt/text_summary")[0]
    assert text.step == 20 and b"a text" in text.tensor_proto.string_val[0]
    (counted,) = events.Histograms("probe/h")
    assert counted.histogram_value.bucket == [1.0, 3.0]
    assert counted.histogram_value.bucket_limit == [0.0, 1.0]
    assert "probe/list" not in events.Tags()["scalars"]
    assert math.isnan(events.Scalars("probe/nan")[0].value)
    # The reader has words of its own, if another test has set a level.
    assert not [r for r in caplog.records if r.name.startswith("tensorboardX")]
