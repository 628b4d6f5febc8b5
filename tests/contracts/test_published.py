"""Published numbers come out again, and they are what was published."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.published import (
    SHAKESPEARE,
    deepobs,
    needs_deepobs,
    needs_shakespeare,
)
from runner.audit.audit import audit
from runner.audit.table import SHIPPED, find, read

ROOT = Path(__file__).parents[2]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
needs_fashion_mnist = pytest.mark.skipif(
    not FASHION_MNIST.is_dir(),
    reason="no Fashion-MNIST: apt-get install dataset-fashion-mnist",
)
OPTIMIZERS = {  # our words for those of DeepOBS, and their tuned rates
    "quadratic_deep": {
        "SGD": ("GradientDescentOptimizer", 0.015849),
        "momentum": ("MomentumOptimizer", 0.0025119),
        "Adam": ("AdamOptimizer", 0.039811),
    },
    "fmnist_2c2d": {
        "SGD": ("GradientDescentOptimizer", 0.15849),
        "momentum": ("MomentumOptimizer", 0.0025119),
        "Adam": ("AdamOptimizer", 2.5119e-4),
    },
}


@needs_deepobs
@pytest.mark.parametrize("problem", OPTIMIZERS)
def test_the_shipped_cells_are_those_of_the_raw_results(problem):
    for cell in read(find(f"deepobs_{problem}")).cells:
        words = re.fullmatch(r"(?:(\w+) of )?(\w+) after (\d+) epochs?", cell.name)
        assert words and cell.epoch == int(words[3])
        name, rate = OPTIMIZERS[problem][words[2]]
        metric = f"test_{words[1] or 'loss'}"
        values = deepobs(problem, name, rate, metric)[cell.epoch]
        assert cell.metric == metric.replace("test_", "validation/")
        assert cell.n == len(values) == 10
        assert cell.mean == pytest.approx(values.mean(), rel=1e-5)
        assert cell.std == pytest.approx(values.std(ddof=1), rel=1e-3)


def test_every_shipped_table_is_held_by_these():
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == {
        f"deepobs_{problem}" for problem in OPTIMIZERS
    }


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory) -> Path:
    """The original files, made from those of Debian."""
    folder = tmp_path_factory.mktemp("fashion_mnist")
    script = ROOT / "scripts" / "fashion_mnist.py"
    asked = ["--source", str(FASHION_MNIST), "--out", str(folder)]
    subprocess.run([sys.executable, str(script), *asked], check=True)
    return folder


@needs_fashion_mnist
@pytest.mark.nightly
def test_the_first_epochs_of_fmnist_2c2d(fashion_mnist, tmp_path):
    """Two seeds of three optimizers, about a minute an epoch on two cores."""
    table = yaml.safe_load(find("deepobs_fmnist_2c2d").read_text())
    table["cells"] = [cell for cell in table["cells"] if cell["epoch"] <= 3]
    table["seeds"] = [42, 43]
    table["settings"] += [
        "train.epochs=3", f"data.manual_dir={fashion_mnist}", "data.download=false",
        f"data.data_dir={tmp_path / 'data'}", "mesh=single",
    ]  # fmt: skip
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(table))
    found = audit(read(path), tmp_path / "out")
    assert len(found.verdicts) == 18
    for verdict in found.verdicts:
        assert verdict.outcome == "reproduced", verdict
        assert verdict.cell.std is not None
        assert abs(verdict.difference) <= 2 * verdict.cell.std, verdict


@needs_shakespeare
@pytest.mark.nightly
def test_shakespeare_cpu(tmp_path):
    """Three seeds over the whole validation split; nanoGPT's 1.88 is of a part."""
    table = {
        "source": "https://github.com/karpathy/nanoGPT, README.md",
        "settings": [
            "experiment=nanogpt/shakespeare_cpu", f"data.path={SHAKESPEARE}",
            f"data.data_dir={tmp_path / 'text'}", "mesh=single", "wandb=disabled",
        ],
        "seeds": [0, 1, 2],
        "cells": [
            {"name": "end", "metric": "validation/loss", "mean": 1.88, "n": 1},
        ],
    }  # fmt: skip
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(table))
    (end,) = audit(read(path), tmp_path / "out").verdicts
    assert len(end.values) == 3 and end.step == 2000
    assert end.mean <= 1.91, end.values
