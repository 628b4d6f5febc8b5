"""Nothing damaged is used in silence: checkpoints, rows and records with other bits."""

import json
import re
import shutil
from pathlib import Path

import pytest

from helpers.damage import files_in, flipped, flips
from helpers.resuming import arrays_of, record, rows_of
from runner import load_run
from runner.compare.load import load
from runner.errors import ConfigError
from runner.job import restore, resume
from runner.job.checkpoint import Checkpoints
from runner.record import checksums
from runner.saved.record import read

KEPT = ("checkpoint.every_steps=10", "checkpoint.keep=2")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / "killed"


@pytest.fixture
def killed(ran, trained_once, tmp_path):
    """A run that was killed at step 33, with the checkpoints of steps 20 and 30."""
    if not trained_once.exists():
        with pytest.MonkeyPatch.context() as patch:
            # None is skipped, however long the one before takes.
            patch.setattr(Checkpoints, "_is_free", lambda self: True)
            ran(trained_once, *KEPT, stop=33)
        assert restore.steps(trained_once / "checkpoints") == [20, 30]
        (trained_once / checksums.FILE).unlink()  # as if by SIGKILL: no rows in it
    return Path(shutil.copytree(trained_once, tmp_path / "killed"))


def test_a_bit_of_a_checkpoint(killed, monkeypatch, capsys):
    """Whatever the bit, the one before is used, with a warning that names the other."""
    monkeypatch.setattr(restore, "_restored", lambda folder, step, *_: step)
    folder = killed / "checkpoints"
    assert restore.newest(folder, None, None, {}) == 30  # pyright: ignore
    assert not capsys.readouterr().err
    for path, bit in flips(files_in(folder / "30"), count=60, seed=1):
        with flipped(path, bit):
            used = restore.newest(folder, None, None, {})  # pyright: ignore
        told = capsys.readouterr().err
        assert used == 20 and f"{folder / '30'} is damaged" in told, (path, bit)
    (older,), (newer,) = (flips(files_in(folder / n), 1, 2) for n in ("20", "30"))
    with flipped(*older), flipped(*newer):
        with pytest.raises(ConfigError, match=f"none of the checkpoints in {folder}"):
            restore.newest(folder, None, None, {})  # pyright: ignore


@pytest.mark.parametrize("lost", ["state/manifest.ocdbt", "record/metadata"])
def test_a_file_of_a_checkpoint_that_is_lost(killed, monkeypatch, capsys, lost):
    monkeypatch.setattr(restore, "_restored", lambda folder, step, *_: step)
    (killed / "checkpoints" / "30" / lost).unlink()
    assert restore.newest(killed / "checkpoints", None, None, {}) == 20  # pyright: ignore
    assert f"{lost} doesn't have the checksum" in capsys.readouterr().err


def test_checkpoints_without_checksums_are_used_with_a_note(ran, killed, capsys):
    for path in (killed / "checkpoints").glob(f"*/{checksums.FILE}"):
        path.unlink()
    ran(killed, *KEPT)
    assert "checkpoints/30 is from an earlier version" in capsys.readouterr().err
    assert record(killed, "provenance")["restarts"][0]["step"] == 30


def test_the_best_state_is_damaged(ran, tmp_path, monkeypatch, capsys):
    """The test splits are evaluated with the last, and it is said."""
    original = Checkpoints.best

    def best(self, *given):
        self._manager.wait_until_finished()
        folder = self.folder / str(self._best_step)
        flipped(*flips(files_in(folder), 1, seed=4)[0]).__enter__()
        return original(self, *given)

    monkeypatch.setattr(Checkpoints, "best", best)
    ran(tmp_path, "checkpoint.best=true", "train.eval_every_steps=5")
    told = capsys.readouterr().err
    assert re.search(r"the best state, of step \d+, can't be used", told)
    assert record(tmp_path, "summary")["status"] == "finished"


def _cut(lines):
    return lines[:24]


def _double(lines):
    return [*lines[:25], *lines[24:]]


def _digit(lines):
    row = json.loads(lines[24])
    row["train/loss"] += 0.25
    return [*lines[:24], json.dumps(row), *lines[25:]]


@pytest.mark.parametrize(
    "damage", [_cut, pytest.param(_double, marks=pytest.mark.nightly), _digit]
)
def test_rows_other_than_when_a_checkpoint_was_saved(ran, killed, damage, capsys):
    """They are cut to those of the checkpoint before, which are whole, or refused."""
    metrics = killed / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join(damage(lines)) + "\n")
    if damage is _cut:
        short = metrics.read_text()
        shutil.rmtree(killed / "checkpoints" / "20")
        with pytest.raises(
            ConfigError, match=r"none of the checkpoints .* can be used"
        ):
            ran(killed, *KEPT)
        assert metrics.read_text() == short
        told = r"checkpoints/30 is skipped: \S+metrics.jsonl has \d+ of the \d+ bytes"
        assert_told(capsys, told)
        return
    ran(killed, *KEPT)
    assert_told(capsys, r"checkpoints/30 is skipped: the rows in \S+ aren't those")
    assert record(killed, "provenance")["restarts"][0]["step"] == 20
    assert [row["step"] for row in rows_of(killed)] == list(range(1, 41))
    assert arrays_of(killed, 40)


def assert_told(capsys, pattern):
    assert re.search(pattern, capsys.readouterr().err)


def test_damage_after_the_checkpoint_is_cut(ran, killed):
    with (killed / "metrics.jsonl").open("a") as file:
        file.write("{torn\n[]\n")
    ran(killed, *KEPT)
    assert [row["step"] for row in rows_of(killed)] == list(range(1, 41))


def test_a_bit_of_rows_and_records(ran, tmp_path):
    """Each file that a run leaves is named if it isn't as the run wrote it."""
    ran(tmp_path, "checkpoint.last=false")
    assert load_run(tmp_path).parameters and read(tmp_path).rows and load([tmp_path])
    for name in (*checksums.RECORDS, checksums.FILE, "state.safetensors"):
        for path, bit in flips([tmp_path / name], count=6, seed=len(name)):
            readers = (_parameters, read, lambda folder: load([folder]))
            for reader in readers[: 1 if name == "state.safetensors" else 3]:
                with flipped(path, bit), pytest.raises(ConfigError, match=name):
                    reader(tmp_path)


def _parameters(folder):
    return load_run(folder).parameters


NO_OBJECT = ("[]", "3", "{", "\x00", "", "[" * 100_000, None)


@pytest.mark.parametrize("name", ["config", "provenance", "summary"])
@pytest.mark.parametrize("text", NO_OBJECT, ids=range(len(NO_OBJECT)))
def test_a_record_of_the_wrong_type_is_named(killed, name, text):
    path = killed / f"{name}.json"
    path.unlink()
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=f"{name}.json"):
        resume._earlier(killed)


@pytest.mark.parametrize(
    "name, value, key",
    [
        ("config", {"format": 2, "train": []}, "train.steps"),
        ("config", {"format": 2, "train": {"steps": "40"}}, "train.steps"),
        ("summary", {}, "status"),
        ("summary", {"status": 3}, "status"),
    ],
)
def test_a_record_of_another_shape_is_named(killed, name, value, key):
    (killed / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=rf"{name}\.json has no .* {key}"):
        resume._earlier(killed)
