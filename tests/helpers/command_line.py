"""The program as a process of its own, on one device."""

import os
import subprocess
import sys
from pathlib import Path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m runner` in `folder`, into its folder `run`."""
    return _runner(folder, *arguments, "hydra.run.dir=run")


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m runner -m` in `folder`, into its folder `sweep`."""
    return _runner(folder, "-m", *arguments, "hydra.sweep.dir=sweep")


def _runner(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
