"""What can happen to W&B costs a run no row and at most ten seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "faults.py"
QUICK = ["garbage", "clock", "helper killed", "helper stopped", "folder read-only"]


@pytest.mark.parametrize(
    "arguments",
    [["--quick", *QUICK], pytest.param([], marks=pytest.mark.nightly)],
    ids=["some", "all"],
)
def test_faults(arguments):
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok (") >= (len(arguments) - 1 if arguments else 20)
