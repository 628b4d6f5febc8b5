"""Runs and sweeps that are launched into processes of others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.forked import python

TINY = (
    "debug=tiny", "framework=jax", "model.hidden_sizes=[8]", "verify=false",
    "wandb=disabled",
)  # fmt: skip


def command(folders: dict[str, Path], *arguments: str) -> list[str]:
    """The arguments of `python` for a run or a sweep."""
    cache = f"compilation_cache={folders['xla']}"
    return ["-m", "runner", *arguments, *TINY, cache]


@pytest.fixture
def start(tmp_path, folders):
    """Start the program in a folder of its own; its output goes to a file."""

    def start(*arguments: str) -> subprocess.Popen:
        with (tmp_path / "said").open("a") as said:
            return subprocess.Popen(
                [sys.executable, *command(folders, *arguments)],
                cwd=tmp_path,
                env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
                stdout=said,
                stderr=said,
            )

    return start


@pytest.fixture
def run(tmp_path, folders):
    """Run the program to its end: exit status and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        done = python(*command(folders, *arguments), cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    return run


def write_broken_model(folder: Path) -> list[str]:
    """A user's model that can't be divided by `width - 4`: arguments that choose it."""
    (folder / "mine.py").write_text(
        "from runner.models.mlp import mlp\n"
        "def broken(*, inputs, output, dtype, hidden_sizes, width):\n"
        "    return mlp(inputs=inputs, output=output, dtype=dtype,\n"
        "               hidden_sizes=[width // (width - 4)], activation='relu',\n"
        "               dropout=0.0)\n"
    )
    model = folder / "conf" / "model"
    model.mkdir(parents=True)
    (model / "broken.yaml").write_text(
        "_target_: mine.broken\nwidth: 8\nhidden_sizes: []\n"
    )
    return ["--config-dir", "conf", "model=broken"]


def events(folder: Path, pattern: str = "*.jsonl") -> list[dict]:
    """What the tasks of a run or a sweep have told."""
    files = sorted((folder / "cluster" / "tasks").glob(pattern))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def states(folder: Path) -> list[str]:
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"].values()
    return sorted(job["state"] for job in jobs)


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
