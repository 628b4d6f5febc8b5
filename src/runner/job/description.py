"""What a compiled program depends on, as plain values."""

from typing import Any

import jax
import numpy as np

from runner.core.mesh import Mesh
from runner.core.optimizer_spec import OptimizerSpec
from runner.core.optimizers import Optimizer
from runner.core.schedules import ReduceOnPlateau
from runner.data.dataset import Dataset
from runner.settings import SETTINGS, is_in_program
from runner.trees import flatten


def description(
    config: dict, dataset: Dataset, mesh: Mesh, tx: Optimizer, asked: OptimizerSpec
) -> dict[str, Any]:
    """Plain values that distinguish this run's compiled program from others."""
    traced = {"learning_rate", *tx.hyperparameters}
    traced |= {f"groups.{group.name}.learning_rate" for group in asked.groups}
    plateau = isinstance(asked.schedule, ReduceOnPlateau) and config["schedule"]
    rows = dataset.train.rows(np.zeros(1, int))
    train = {f"train.{name}": value for name, value in config["train"].items()}
    more: dict[str, Any] = {} if config["init_from"] is None else {"init_from": True}
    if len(asked.groups) > 1:  # a parameter is in the first that matches
        more["groups"] = [group.name for group in asked.groups]
    return more | {
        "framework": config["framework"],
        "model": config["model"],
        "task": config["task"],
        "metrics": config["metrics"],
        "precision": config["precision"],
        "deterministic": config["deterministic"],
        "optimizer": {
            key: value
            for key, value in flatten(config["optimizer"]).items()
            if key not in traced
        },
        "arguments": sorted(traced),
        "plateau": plateau and {k: v for k, v in plateau.items() if k != "base"},
        "train": {
            key: value is not None if SETTINGS[key].switch else value
            for key, value in train.items()
            if is_in_program(key) or SETTINGS[key].switch
        },
        # The program holds the data too, so those of one shape must not be mixed up.
        "data": {k: v for k, v in config["data"].items() if is_in_program(f"data.{k}")}
        | {
            "features": {k: [v.shape[1:], str(v.dtype)] for k, v in rows.items()},
            "examples": {name: len(split) for name, split in dataset.splits.items()},
            "classes": dict(dataset.classes),
            "mode": dataset.mode,
        },
        "mesh": [
            mesh.placement.axes,
            *(mesh.placement[1:] if mesh.devices > 1 else ()),
        ],
        "device_kind": jax.devices()[0].device_kind,
        "versions": [jax.__version__],
    }
