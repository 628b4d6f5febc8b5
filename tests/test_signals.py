"""A signal ends a process at any moment with the right status, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from helpers.signalled import ENDINGS, status, wait_until_handled

# A table of all processes, with what each handles and inherits.
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc")

TINY = (
    "framework=jax", "model.hidden_sizes=[8]", "train.epochs=3", "mesh=single",
    "wandb=offline",
)  # fmt: skip


class Started:
    """`python -m runner`, and whoever it starts."""

    def __init__(self, folder: Path, folders, *arguments: str):
        self.folder, self._id = folder, uuid.uuid4().hex
        into = "hydra.sweep.dir=run" if "-m" in arguments else "hydra.run.dir=run"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments, *TINY, into,
             f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}"],
            cwd=folder,
            env=os.environ | {"RUNNER_TESTED": self._id, "WANDB_MODE": "offline"},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        wait_until_handled(self.process)
        self.begun = time.monotonic()

    def wait_for(self, pattern: str) -> None:
        while not list(self.folder.glob(pattern)):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def sent(self, number: int) -> tuple[int, str]:
        """The exit status after a signal, and what was said."""
        self.process.send_signal(number)
        sent = time.monotonic()
        said = self.process.communicate(timeout=60)[1]
        is_training = "ending after this step" in said
        # Seconds, on a machine that also does something else.
        assert time.monotonic() - sent < 5 or is_training, said
        self._leaves_nothing()
        return self.process.returncode, said

    def _leaves_nothing(self) -> None:
        deadline = time.monotonic() + 20
        while left := [path for path in Path("/proc").glob("[0-9]*") if self._is(path)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def _is(self, process: Path) -> bool:
        try:
            return self._id.encode() in (process / "environ").read_bytes()
        except OSError:  # another's, or over
            return False


@pytest.mark.parametrize(
    ("pattern", "seconds"),
    [("", 0.0), ("run", 0.0), ("run", 1.0), ("run/config.json", 0.0)],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_it_ends_at_once(
    tmp_path, folders, number, pattern, seconds
):
    started = Started(tmp_path, folders)
    if pattern:
        started.wait_for(pattern)
    time.sleep(seconds)
    code, said = started.sent(number)
    assert code == ENDINGS[number], said
    assert number.name in said and "Traceback" not in said
    begun = (tmp_path / "run").exists()
    assert status(tmp_path / "run") == ("preempted" if begun else None)
    assert begun or not pattern


@pytest.mark.parametrize("number", [signal.SIGUSR1])
def test_a_sweep_says_how_it_goes_on(tmp_path, folders, number):
    started = Started(tmp_path, folders, "-m", "seed=0,1")
    started.wait_for("run/sweep.json")
    code, said = started.sent(number)
    assert code == 75 and "the same command continues run" in said
    jobs = json.loads((tmp_path / "run/sweep.json").read_text())["jobs"].values()
    assert [job["state"] for job in jobs] == ["pending"] * 2


@pytest.mark.nightly
@pytest.mark.parametrize("arguments", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_twelve_moments_it_is_finished_or_goes_on(
    tmp_path, folders, number, arguments
):
    (tmp_path / "whole").mkdir()
    whole = Started(tmp_path / "whole", folders, *arguments)
    whole.process.communicate(timeout=120)
    total = time.monotonic() - whole.begun
    for moment in range(12):
        folder = tmp_path / str(moment)
        folder.mkdir()
        started = Started(folder, folders, *arguments)
        time.sleep(total * moment / 11)
        if started.process.poll() is None:
            code, said = started.sent(number)
        else:
            code, said = 0, started.process.communicate()[1]
        runs = [path.parent for path in folder.rglob("summary.json")]
        found = {status(run) for run in runs}
        assert code in (0, ENDINGS[number]), said
        if code == 0:
            assert found == {"finished"}, (moment, said)
        else:
            assert found <= {"preempted", "finished"}, (moment, said)
        again = Started(folder, folders, *arguments)
        said = again.process.communicate(timeout=120)[1]
        assert again.process.returncode == 0, said
        for run in folder.rglob("summary.json"):
            assert status(run.parent) == "finished"


SWALLOWED = """
from runner import signals
signals.watch()
import gc, os, signal, sys, time
from runner.job.interruption import Interruption

def collected(phase, info):  # Python only prints what is raised here
    for name in sys.argv[1:] if phase == "start" else ():
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.1)

with Interruption() as interruption:
    interruption.stopping()
    signals.last_word(interruption, lambda error: print(type(error).__name__))
    gc.callbacks.append(collected)
    gc.collect()
    gc.callbacks.clear()
    time.sleep(60)
"""


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_ctrl_c_is_not_lost_where_python_swallows_it(first):
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, first, "SIGINT"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 130, done.stderr
    assert "Exception ignored in" in done.stderr
    assert done.stdout == "KeyboardInterrupt\n"
