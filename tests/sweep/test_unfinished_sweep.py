"""Sweeps that end before their last job, by a signal or a full disk, or go on."""

import json
import os
import random
import signal
import time

import pytest

from helpers.full import small_disk
from helpers.swept import command, here, main, rows, run, start, states, summary
from runner.record import checksums

__all__ = ["command", "here", "main", "run", "start"]  # fixtures


@pytest.mark.nightly  # test_population_checkpoints.py kills each way once
@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_killed_at_random_moments_the_sweep_ends_with_the_same_results(
    strategy, run, start, tmp_path
):
    arguments = (
        "seed=0,1,2,3,4,5", "optimizer=sgd,adam", "train.steps=200",
        f"hydra.launcher.strategy={strategy}",
    )  # fmt: skip
    status, said = run(*arguments, folder="undisturbed")
    assert status == 0, said
    rng = random.Random(0)
    finished: dict[str, int] = {}
    for _ in range(5):
        process = start(*arguments)
        # From before anything is there to when some jobs are done.
        deadline = time.monotonic() + rng.uniform(2, 9)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in tmp_path.glob("sweep/*/summary.json"):
            if summary(path.parent)["status"] == "finished":
                finished.setdefault(path.parent.name, path.stat().st_mtime_ns)
    status, said = run(*arguments)
    assert status == 0, said
    assert states(tmp_path / "sweep") == {"done": 12}
    for name, when in finished.items():  # none ran twice to its end
        assert (tmp_path / "sweep" / name / "summary.json").stat().st_mtime_ns == when
    wanted, found = rows(tmp_path / "undisturbed"), rows(tmp_path / "sweep")
    if strategy == "loop":
        assert found == wanted
    for name, own in found.items():
        for row, other in zip(own, wanted[name], strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_ctrl_c_leaves_a_sweep_that_goes_on(start, run, tmp_path):
    arguments = ("seed=0,1,2", "train.steps=200000", "hydra.launcher.strategy=loop")
    process = start(*arguments)
    metrics = tmp_path / "sweep" / "seed=0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues sweep" in said
    assert summary(metrics.parent)["status"] == "preempted"
    assert states(tmp_path / "sweep") == {"pending": 3}


@pytest.mark.nightly
def test_a_full_disk(here, tmp_path):
    """Each job says what can't be written and what is safe, and so does the sweep."""
    with small_disk(tmp_path / "disk", kib=300) as disk:
        sizes = ("train.epochs=null", "train.steps=2000", "train.log_every_steps=1")
        saved = ("checkpoint.every_steps=50", "checkpoint.keep=9")
        asked = (*sizes, *saved, "seed=0,1", "hydra.launcher.strategy=vmap")
        status, said = here(*asked, folder="disk/sweep")
        assert status and "No space left on device. Its rows up to step" in said, said
        assert "None" not in said and "Traceback" not in said
        failed = [summary(path.parent) for path in disk.glob("*/*/summary.json")]
        assert [found["status"] for found in failed] == ["failed", "failed"]


def test_the_same_command_without_a_folder_continues_the_unfinished_sweep(
    run, tmp_path
):
    assert run("seed=0,1", folder=None)[0] == 0
    (path,) = tmp_path.glob("multirun/*/*/sweep.json")
    found = json.loads(path.read_text())
    key = next(iter(found["jobs"]))
    found["jobs"][key]["state"] = "running"  # as a kill leaves it
    folder = path.parent / found["jobs"][key]["folder"]
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"finished"', '"running"'))
    (folder / checksums.FILE).unlink()
    path.write_text(json.dumps(found))
    status, said = run("seed=0,1", "data.batch_size=8", folder=None)
    assert status == 0 and "continuing" not in said  # another one
    status, said = run("seed=0,1", folder=None)
    assert status == 0 and "continuing the unfinished sweep in" in said
    assert summary(folder)["status"] == "finished"
    assert len(list(tmp_path.glob("multirun/*/*"))) == 2
    status, said = run("seed=0,1", folder=None)  # nothing is unfinished any more
    assert status == 0 and "continuing" not in said
    assert len(list(tmp_path.glob("multirun/*/*"))) == 3


def test_two_processes_dont_work_on_one_sweep(start, run, tmp_path):
    first = start("seed=0,1", "train.steps=100000000", "hydra.launcher.strategy=loop")
    while not (tmp_path / "sweep" / "sweep.json").exists():
        time.sleep(0.05)
        assert first.poll() is None, first.communicate()
    status, said = run("seed=0,1", "train.steps=100000000")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert status == 1 and "another process is running the sweep" in said
