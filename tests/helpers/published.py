"""Published curves, in a folder beside the checkout that isn't part of the project."""

import json
from pathlib import Path

import numpy as np
import pytest

# Schneider et al., 2019: the raw results at fsschneider/DeepOBS_Baselines, cut down.
SHARED = Path(__file__).parents[2].parent / "shared/data"
DEEPOBS = SHARED / "deepobs_published.json"
SHAKESPEARE = SHARED / "tinyshakespeare.txt"
needs_deepobs = pytest.mark.skipif(
    not DEEPOBS.is_file(), reason=f"{DEEPOBS.name} isn't in ../shared/data"
)
needs_shakespeare = pytest.mark.skipif(
    not SHAKESPEARE.is_file(), reason=f"{SHAKESPEARE.name} isn't in ../shared/data"
)


def deepobs(
    problem: str, optimizer: str, rate: float, metric: str = "test_loss"
) -> dict[int, np.ndarray]:
    """The values of all seeds at a learning rate, by epoch."""
    runs = json.loads(DEEPOBS.read_text())["problems"][problem][optimizer]
    runs = [run for run in runs if np.isclose(run["lr"], rate, rtol=1e-3)]
    epochs = runs[0]["epochs"]
    return dict(zip(epochs, np.transpose([run[metric] for run in runs]), strict=True))
