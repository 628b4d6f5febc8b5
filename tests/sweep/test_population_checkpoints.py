"""A packed sweep that is killed goes on from where its population was saved."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.forked import python
from helpers.resuming import arrays_of, record, rows_of

# The second diverges at its second step, before anything is saved.
SWEEP = (
    "optimizer=sgd", "optimizer.learning_rate=0.1,1e30,0.2", "model.hidden_sizes=[16]",
    "train.epochs=null", "train.steps=2000", "train.log_every_steps=1",
    "train.eval_every_steps=15", "schedule=reduce_on_plateau",
    "schedule.watch=validation", "schedule.unit=steps", "schedule.patience=60",
    "model.dropout=0.1",
    "train.ema_decay=0.9", "wandb=disabled", "verify=false",
)  # fmt: skip


# Kills the sweep when the first of its members has been trained to the end.
KILLED_AT_THE_END = """
import os
from runner import __main__
from runner.sweep import population
population._end = lambda index, member, error, *_: error or os.kill(os.getpid(), 9)
__main__.main()
"""


def start(
    folder: Path, *arguments: str, how: tuple[str, ...] = ("-m", "runner")
) -> subprocess.Popen:
    command = [sys.executable, *how, "-m", *SWEEP, *arguments]
    return subprocess.Popen(
        [*command, f"hydra.sweep.dir={folder}"],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, *arguments: str) -> None:
    """Sweep to the end. One of its jobs fails, so its exit status is 1."""
    asked = "-m", "runner", "-m", *SWEEP, *arguments, f"hydra.sweep.dir={folder}"
    done = python(*asked, cwd=Path.cwd())
    assert done.returncode == 1 and "2/3 done, 1 failed" in done.stderr, done.stderr


def how(strategy: str) -> tuple[str, ...]:
    kept = ("checkpoint.best=true", "checkpoint.last=true")
    return f"hydra.launcher.strategy={strategy}", *(kept if strategy == "vmap" else ())


def kept(folder: Path) -> dict[str, dict]:
    """The best and the last state of each finished member, and its test numbers."""
    found = {}
    for path in folder.glob("*/summary.json"):
        summary = record(path.parent, "summary")
        if summary["status"] == "finished":
            best = summary["best"]["validation/loss"]["step"]
            states = {step: arrays_of(path.parent, step) for step in (best, 2000)}
            found[path.parent.name] = states | {"test": summary["final"]["test/loss"]}
    return found


def rows(folder: Path) -> dict[str, list[dict]]:
    return {
        path.parent.name: rows_of(path.parent) for path in folder.glob("*/m*.jsonl")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a sweep that nobody kills, by strategy."""
    known: dict[str, Path] = {}

    def undisturbed(strategy):
        if strategy not in known:
            folder = tmp_path_factory.mktemp(strategy)
            finish(folder, *how(strategy))
            known[strategy] = folder
        return known[strategy]

    return undisturbed


@pytest.mark.parametrize(
    "strategy, number",
    [
        ("vmap", signal.SIGKILL),
        pytest.param("vmap", signal.SIGTERM, marks=pytest.mark.nightly),
        pytest.param("loop", signal.SIGKILL, marks=pytest.mark.nightly),
    ],
)
def test_killed_in_the_middle(undisturbed, tmp_path, strategy, number):
    wanted = rows(undisturbed(strategy))
    assert [len(rows) for rows in wanted.values()].count(2000) == 2
    asked = (*how(strategy), "checkpoint.every_steps=100")
    process = start(tmp_path, *asked)
    place = "checkpoints/*" if strategy == "vmap" else "*/checkpoints"
    while process.poll() is None and not list(tmp_path.glob(f"{place}/*00/record")):
        time.sleep(0.002)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 75), told
    ended = {p: p.read_bytes() for p in tmp_path.glob("*1e*/metrics.jsonl")}
    finish(tmp_path, *asked)
    assert rows(tmp_path) == wanted
    assert all(path.read_bytes() == before for path, before in ended.items())
    restarts = [
        record(path.parent, "provenance")["restarts"]
        for path in tmp_path.glob("*/provenance.json")
    ]
    steps = [restart[0]["step"] for restart in restarts if restart]
    assert steps and max(steps) >= 100 and max(steps) % 100 * (number == 9) == 0
    if strategy == "vmap":
        assert len(steps) == 2 and not (tmp_path / "checkpoints").exists()
        assert kept(tmp_path) == kept(undisturbed(strategy))
    states = json.loads((tmp_path / "sweep.json").read_text())["jobs"].values()
    assert sorted(job["state"] for job in states) == ["done", "done", "failed"]


def test_killed_at_the_end(undisturbed, tmp_path):
    """Nothing is left to train, and the last states are there nevertheless."""
    asked = (*how("vmap"), "checkpoint.every_steps=100")
    killed = start(tmp_path, *asked, how=("-c", KILLED_AT_THE_END))
    _, told = killed.communicate(timeout=60)
    assert killed.returncode == -9, told
    assert list(tmp_path.glob("checkpoints/*/2000/record"))
    finish(tmp_path, *asked)
    assert rows(tmp_path) == rows(undisturbed("vmap"))
    assert kept(tmp_path) == kept(undisturbed("vmap"))
