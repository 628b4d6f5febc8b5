"""The program as a process of its own, on one device."""

import subprocess
from pathlib import Path

from helpers.forked import python


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m runner` in `folder`, into its folder `run`."""
    return _runner(folder, *arguments, "hydra.run.dir=run")


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m runner -m` in `folder`, into its folder `sweep`."""
    return _runner(folder, "-m", *arguments, "hydra.sweep.dir=sweep")


def _runner(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return python("-m", "runner", *arguments, cwd=folder)
