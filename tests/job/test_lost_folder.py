"""A run whose folder can't be written any more: one message, nothing half-written."""

import contextlib
import errno
import os
import shutil

import pytest

from helpers.full import small_disk
from helpers.resuming import record, rows_of
from runner.config.explain import MISTAKES
from runner.errors import Unwritable
from runner.record import recorder
from runner.record.recorder import Recorder


def at_step(step, happens):
    """A `Recorder.row` before whose row of `step` something happens to the folder."""
    original = Recorder.row

    def row(self, row):
        if row["step"] == step:
            happens(self.folder)
        original(self, row)

    return row


def fill(folder):
    with (folder.parent / "other").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass


def test_a_full_disk(ran, tmp_path, monkeypatch, capfd):
    """The rows before are whole, and the same command continues once there is space."""
    whole = ran(tmp_path / "whole")
    every = "checkpoint.every_steps=10"
    with small_disk(tmp_path / "disk", kib=600) as disk:
        with monkeypatch.context() as patch, pytest.raises(Unwritable) as told:
            patch.setattr(Recorder, "row", at_step(25, fill))
            ran(disk / "run", every)
        assert isinstance(told.value, MISTAKES)
        assert "can't be written: No space left on device. Its rows up" in str(
            told.value
        )
        assert "Traceback" not in capfd.readouterr().err
        rows = rows_of(disk / "run")
        assert 25 <= len(rows) < 40 or rows == whole
        assert record(disk / "run", "summary")["status"] == "failed"
        assert not list(disk.rglob("*tmp*"))
        (disk / "other").unlink()
        assert ran(disk / "run", every) == whole


def test_a_folder_that_is_deleted(ran, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Recorder, "row", at_step(20, shutil.rmtree))
    with pytest.raises(Unwritable, match=r"metrics\.jsonl can't .* Nothing of the run"):
        ran(tmp_path / "run", "checkpoint.last=false")
    told = capfd.readouterr().err
    assert "error: " in told and "summary.json can't be written: No such" in told
    assert "Traceback" not in told and not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_a_folder_that_is_moved(ran, tmp_path, monkeypatch):
    """The rows follow it; the summary can't."""
    to = tmp_path / "moved"
    monkeypatch.setattr(Recorder, "row", at_step(20, lambda folder: folder.rename(to)))
    with pytest.raises(Unwritable, match=r"can't be written: No such file"):
        ran(tmp_path / "run", "checkpoint.last=false")
    assert len((to / "metrics.jsonl").read_text().splitlines()) == 40


def test_a_folder_that_becomes_read_only(ran, tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "summary.json")

    def become(folder):
        monkeypatch.setattr(recorder, "write_json", refuse)
        monkeypatch.setattr(recorder, "overwrite_json", refuse)

    monkeypatch.setattr(Recorder, "row", at_step(20, become))
    with pytest.raises(Unwritable, match=r"summary\.json can't .*: Read-only file"):
        ran(tmp_path, "checkpoint.last=false")
    assert record(tmp_path, "summary")["status"] == "running"  # as before
    assert len(rows_of(tmp_path)) == 40


def test_a_save_that_fails(ran, tmp_path, monkeypatch, capfd):
    """In the background, while no row is lost."""
    from runner.job.checked_folder import CheckedFolder

    async def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CheckedFolder, "finalize", full)
    with pytest.raises(
        Unwritable, match=r"checkpoints can't .*No space left .* no check"
    ):
        ran(tmp_path, "checkpoint.every_steps=10")
    assert record(tmp_path, "summary")["status"] == "failed"
    assert rows_of(tmp_path) and not list((tmp_path / "checkpoints").iterdir())
    assert "Traceback" not in capfd.readouterr().err
