"""The program as a process of its own, on one device."""

import os
import subprocess
import sys
from pathlib import Path


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m runner -m` in `folder`, into its folder `sweep`."""
    return subprocess.run(
        [sys.executable, "-m", "runner", "-m", *arguments, "hydra.sweep.dir=sweep"],
        cwd=folder,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
