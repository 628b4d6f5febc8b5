"""Runs for the commands on a saved run, and what their files say."""

import json
from pathlib import Path

import pytest

SHORT = ("train.steps=6", "train.eval_every_steps=2", "~checkpoint.last",
         "checkpoint.last=false")  # fmt: skip
CNN = ("model=cnn", "~model.hidden_sizes", "model.channels=[2]", "model.hidden_size=4")
# What each run is trained with, by its name.
RUNS = {
    "jax": ("framework=jax", *SHORT),
    "linen": ("framework=linen", *SHORT),
    "nnx": ("framework=nnx", *SHORT),
    "jax with statistics": ("framework=jax", *SHORT, *CNN),
    "linen with statistics": ("framework=linen", *SHORT, *CNN),
    "nnx with statistics": ("framework=nnx", *SHORT, *CNN),
    "an average": ("framework=jax", *SHORT, "train.ema_decay=0.5"),
    "schedule-free": ("framework=jax", *SHORT, "optimizer=schedule_free_sgd"),
    # The learning rate spoils a good start, so the best state isn't the last.
    "best": (
        "framework=jax", *SHORT, "checkpoint.best=true", "optimizer=sgd",
        "schedule=piecewise_constant", "schedule.boundaries=[4]",
        "schedule.scales=[300]", "optimizer.learning_rate=0.3",
    ),
}  # fmt: skip
WITH_STATISTICS = [name for name in RUNS if name.endswith("statistics")]
AT_NIGHT = (
    "linen", "nnx", "an average", "schedule-free", "jax with statistics",
    "linen with statistics",
)  # fmt: skip


def some_at_night(names):
    marks = [pytest.mark.nightly]
    return [pytest.param(n, marks=marks * (n in AT_NIGHT)) for n in names]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def edit(folder: Path, **values) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in values.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    path.write_text(json.dumps(config))
