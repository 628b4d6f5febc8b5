"""A signal ends the process of a task as it ends `python -m runner`."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.launched import TINY
from helpers.signalled import ENDINGS, status, wait_until_handled

LONG = (*TINY, "train.steps=100000", "train.epochs=null", "verify=true")


@pytest.fixture(scope="module")
def submitted(tmp_path_factory, folders):
    """Submit a run or a sweep, and end what was submitted: its folder and its id."""

    @functools.cache
    def submitted(is_sweep: bool) -> tuple[Path, str]:
        root = tmp_path_factory.mktemp("task")
        swept = ["-m", "seed=0,1"] if is_sweep else []
        launcher = subprocess.Popen(
            [sys.executable, "-m", "runner", *swept, "cluster=local", *LONG]
            + [f"hydra.{'sweep' if is_sweep else 'run'}.dir=run"]
            + [f"compilation_cache={folders['xla']}"],
            cwd=root,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (found := list(root.glob("run/cluster/logs/*_submitted.pkl"))):
            assert launcher.poll() is None
            time.sleep(0.02)
        launcher.kill()
        launcher.wait()
        task = found[0].name.partition("_")[0]
        children = Path(f"/proc/{task}/task/{task}/children").read_text()
        for process in (task, *children.split()):
            os.kill(int(process), signal.SIGKILL)
        return root / "run", task

    return submitted


def started(folder: Path, task: str) -> subprocess.Popen:
    """The process of a task, as submitit starts it."""
    names = ("LOCALID", "GLOBALID", "NODEID")
    logs = str(folder / "cluster" / "logs")
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "runner.cluster.process"]
        + ["-u", "-m", "submitit.core._submit", logs],
        cwd=folder.parent,
        env=os.environ
        | {f"SUBMITIT_LOCAL_{name}": "0" for name in names}
        | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": task}
        | {"SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_JOB_NUM_NODES": "1"}
        | {"JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


NIGHT = pytest.mark.nightly


@pytest.mark.parametrize(
    ("number", "is_sweep", "pattern", "seconds"),
    [
        (signal.SIGTERM, False, "", 0.0),
        (signal.SIGINT, False, "cluster/tasks/*.jsonl", 0.5),
        *(
            pytest.param(number, is_sweep, pattern, seconds, marks=NIGHT)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
            for is_sweep in (False, True)
            for pattern, seconds in (
                ("", 0.5),
                ("cluster/tasks/*.jsonl", 0.0),
                ("cluster/tasks/*.jsonl", 2.0),
                ("**/config.json", 0.0),
                ("**/config.json", 10.0),
            )
        ),
    ],
)
def test_at_any_moment(submitted, number, is_sweep, pattern, seconds):
    folder, task = submitted(is_sweep)
    old = {path: path.stat().st_mtime_ns for path in folder.glob(pattern or "*")}
    process = started(folder, task)
    try:
        wait_until_handled(process)
        while pattern and old == {
            path: path.stat().st_mtime_ns for path in folder.glob(pattern)
        }:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    assert process.returncode == ENDINGS.get(number, 75), said
    assert number.name in said and "Traceback" not in said
    found = {status(path.parent) for path in folder.rglob("summary.json")}
    assert found == {"preempted"} or (is_sweep and not found)
