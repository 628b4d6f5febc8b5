"""Several processes of one run, on loopback: two with two virtual devices each."""

import json

import pytest

from helpers.command_line import run
from helpers.damage import files_in, flipped, flips
from helpers.peers import FAST, started
from runner.config.rank import ALONE, Rank, rank
from runner.errors import ConfigError
from runner.job import restore
from runner.record import checksums
from runner.saved.record import read
from runner.settings import DistributedSettings

SECTION = {
    "enabled": True,
    "coordinator_address": None,
    "num_processes": None,
    "process_id": None,
    "timeout_seconds": 60,
}
EXPLICIT = {"coordinator_address": "h:1", "num_processes": 2, "process_id": 1}
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip


def start(folder, count, *overrides, each=None):
    """Run such processes to their ends: their exit statuses and what they said."""
    processes = started(folder, count, *overrides, each=each)
    try:
        told = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


def test_two_processes_train_as_one_device_does(tmp_path, trained):
    status, told = start(
        tmp_path, 2, "data.mode=memory", "mesh=data_fsdp", "checkpoint.last=true"
    )
    assert status == [0, 0], told
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    alone = trained(*FAST, "data.mode=memory")
    for row, wanted in zip(rows, alone, strict=True):
        del row["time/steps_per_second"]
        assert row == pytest.approx(wanted, rel=1e-5)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["device_count"] == 4
    assert "step 20/20" in told[0] and "step" not in told[1]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    _records_are_checked(tmp_path / "run")
    _states_are_checked(tmp_path / "run" / "checkpoints" / "20")


def _records_are_checked(folder):
    """What both have written is whole, and whatever replay reads is noticed."""
    listed = (folder / checksums.FILE).read_text().splitlines()
    assert {line.split()[1] for line in listed} == set(checksums.RECORDS)
    assert len(read(folder).rows) == 20
    for path, bit in flips([folder / name for name in checksums.RECORDS], 4, seed=1):
        with flipped(path, bit), pytest.raises(ConfigError, match=path.name):
            read(folder)


def _states_are_checked(folder):
    """As one process does, before Orbax's rename, with the files of both in it."""
    assert restore.whole_record(folder)["step"] == 20
    names = checksums.files_below(folder)
    assert {n for n in names if "/" in n} <= set(
        line.partition("  ")[2]
        for line in (folder / checksums.FILE).read_text().splitlines()
    )
    assert any("process_1" in name for name in names)
    for path, bit in flips(files_in(folder), 20, seed=1):
        with flipped(path, bit), pytest.raises((ValueError, OSError)):
            restore.whole_record(folder)


@pytest.mark.parametrize(
    ("overrides", "each", "said"),
    [
        ([], ["seed=0", "seed=1"], "seed is 0 on process 0 and 1 on process 1"),
        pytest.param(
            ["data.batch_size=18"],
            None,
            "divisible by the 4 devices",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            ["optimizer=sgd", "optimizer.learning_rate=1e30"],
            None,
            "loss is nan",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_all_tell_of_a_failure_and_end_alike(overrides, each, said, tmp_path):
    status, told = start(tmp_path, 2, *overrides, each=each)
    assert status == [1, 1], told
    for text in told:
        assert "error: " in text and "Traceback" not in text
        assert all(word in text for word in said.split()), text


def test_a_process_that_does_not_come_up_is_told_of(tmp_path):
    status, (told,) = start(tmp_path, 1, "distributed.timeout_seconds=3")
    assert status == [1]
    assert "process 0 of 2: not all processes came up within 3 s" in told


def test_where_a_process_finds_its_place(monkeypatch):
    assert rank(DistributedSettings(**SECTION)) == ALONE
    assert rank(DistributedSettings(**SECTION | EXPLICIT)) == Rank(1, 2, "h:1")
    one = EXPLICIT | {"num_processes": 1, "process_id": 0}
    assert rank(DistributedSettings(**SECTION | one)) == ALONE
    off = SECTION | EXPLICIT | {"enabled": False}
    assert rank(DistributedSettings(**off)) == ALONE


@pytest.mark.smoke
@pytest.mark.parametrize(("tasks", "wanted"), [("2", Rank(1, 2, None)), ("1", ALONE)])
def test_a_step_of_slurm_is_found(tasks, wanted, monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": tasks}).items():
        monkeypatch.setenv(name, value)
    assert rank(DistributedSettings(**SECTION)) == wanted
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"process_id": None}, "distributed.process_id must be given"),
        ({"coordinator_address": "h"}, "must be the host:port"),
        ({"process_id": 2}, "process_id=2 must be at least 0"),
    ],
)
def test_an_incomplete_section_is_an_error(changed, said):
    with pytest.raises(ConfigError, match=said):
        rank(DistributedSettings(**SECTION | EXPLICIT | changed))


def test_it_is_told_in_our_words_though_hydra_meets_it_first(tmp_path):
    told = run(tmp_path, "distributed.num_processes=2").stderr
    assert told.startswith("error: distributed.coordinator_address must be given with")
