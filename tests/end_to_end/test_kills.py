"""Killed at random moments, a run, a packed sweep and two processes end alike."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_and_resume.py"
RUNS = (
    "nnx, plateau of the evaluation, EMA",
    "linen, fed from the host, accumulation, dropout",
    "jax, cnn with BatchNorm and dropout, by the clock",
    "schedule-free, streamed",
)


@pytest.mark.nightly  # a run and a packed sweep are killed always, at a chosen moment
@pytest.mark.parametrize("cases", [RUNS, ("a packed sweep",), ("two processes",)])
def test_twenty_kills(cases):
    command = [sys.executable, SCRIPT, "--kills", "20", "--cases", *cases]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same bits") == len(cases)
