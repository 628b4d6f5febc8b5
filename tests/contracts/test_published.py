"""Published numbers come out again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.packed import together
from helpers.published import deepobs, needs_deepobs

ROOT = Path(__file__).parents[2]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
needs_fashion_mnist = pytest.mark.skipif(
    not FASHION_MNIST.is_dir(),
    reason="no Fashion-MNIST: apt-get install dataset-fashion-mnist",
)
SEEDS = 10
OPTIMIZERS = {  # of DeepOBS, with the tuned rates and our words for them
    "GradientDescentOptimizer": (0.015849, ("optimizer=sgd",)),
    "MomentumOptimizer": (0.0025119, ("optimizer=sgd", "optimizer.momentum=0.99")),
    "AdamOptimizer": (0.039811, ("optimizer=adam",)),
}


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory) -> Path:
    """The original files, made from those of Debian."""
    folder = tmp_path_factory.mktemp("fashion_mnist")
    script = ROOT / "scripts" / "fashion_mnist.py"
    asked = ["--source", str(FASHION_MNIST), "--out", str(folder)]
    subprocess.run([sys.executable, str(script), *asked], check=True)
    return folder


@needs_deepobs
@needs_fashion_mnist
@pytest.mark.nightly
def test_the_first_epoch_of_fmnist_2c2d(fashion_mnist, trained):
    """SGD, about two minutes on two cores, of the 100 epochs that are published."""
    name, rate = "GradientDescentOptimizer", 0.15849
    rows = trained(
        "model=2c2d", "data=fashion_mnist", f"data.manual_dir={fashion_mnist}",
        "data.download=false", "data.splits={train:train,validation:test,test:null}",
        "framework=jax", "optimizer=sgd", f"optimizer.learning_rate={rate}",
        "train.epochs=1",
    )  # fmt: skip
    for key, metric in (("loss", "test_loss"), ("accuracy", "test_accuracy")):
        published = deepobs("fmnist_2c2d", name, rate, metric)[1]
        # One seed against about ten: further away by chance is one of some 60 numbers,
        # by Student's t, and these seeds never change.
        allowed = 3 * published.std(ddof=1) * (1 + 1 / len(published)) ** 0.5
        ours = rows[-1][f"validation/{key}"]
        assert ours == pytest.approx(published.mean(), abs=allowed), key


@needs_deepobs
@pytest.mark.nightly
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_quadratic_deep(name, built):
    """10 seeds of 100 epochs, evaluated on DeepOBS' test data.

    DeepOBS used one order of the batches in all epochs, so that 104 of the 1,000
    examples are never seen; with new orders momentum ends 1.5 higher.
    """
    rate, optimizer = OPTIMIZERS[name]
    asked = (
        "model=quadratic", "data=quadratic", "framework=jax", *optimizer,
        f"optimizer.learning_rate={rate}", "train.epochs=100", "train.limit_batches=7",
        "data.splits.validation={seed:43,examples:896}", "train.log_every_steps=700",
    )  # fmt: skip
    runs = [built(*asked, f"seed={seed}") for seed in range(SEEDS)]
    rows, errors = together(runs)
    assert not errors
    losses = np.array(
        [
            [row["validation/loss"] for row in own if "validation/loss" in row]
            for own in rows
        ]
    )
    assert losses.shape == (SEEDS, 100)
    published = deepobs("quadratic_deep", name, rate)
    for epoch in (1, 10, 100):
        ours, theirs = losses[:, epoch - 1], published[epoch]
        # If ours spread like the published ones, one difference of means of some 10,000
        # is larger than four standard errors. These are nine.
        error = theirs.std(ddof=1) * (1 / SEEDS + 1 / len(theirs)) ** 0.5
        assert ours.mean() == pytest.approx(theirs.mean(), abs=4 * error), epoch
