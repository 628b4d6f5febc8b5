"""Writes run folders as `runner.log` leaves them, without training anything."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.record.files import to_json

OPTIMIZERS = {
    "adam": {"_target_": "optax.adam", "learning_rate": 0.001, "b1": 0.9, "b2": 0.999},
    "sgd": {"_target_": "optax.sgd", "learning_rate": 0.001, "momentum": None},
}
CHOICES = {
    "model": "mlp",
    "framework": "nnx",
    "optimizer": "adam",
    "schedule": "constant",
    "data": "digits",
    "task": "classification",
    "mesh": "data",
}


def write_run(
    folder: Path,
    *,
    final: float = 0.5,
    rows: int = 3,
    status: str = "finished",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    **choices: str,
) -> Path:
    """One run whose validation/loss falls from 2 to `final` in a straight line.

    Args:
      config: dotted keys to change in the resolved config, after the choices.
      provenance: keys to add or change there.
      choices: of a group, such as `optimizer="sgd"`.
    """
    chosen = CHOICES | choices
    optimizer = dict(OPTIMIZERS.get(chosen["optimizer"], {"_target_": "my.optimizer"}))
    tree: dict[str, Any] = {
        "seed": seed,
        "objective": "validation/loss",
        "train": {"epochs": None, "steps": 10 * rows, "steps_per_epoch": 22},
        "optimizer": optimizer,
        "schedule": {"_target_": "optax.constant_schedule"},
        "framework": {"_target_": f"runner.frameworks.{chosen['framework']}.pipeline"},
        "hydra": {"choices": {**chosen, "debug": None}, "overrides": [f"seed={seed}"]},
    }
    for key, value in (config or {}).items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    tree["schedule"].setdefault("value", optimizer.get("learning_rate"))
    losses = [*np.linspace(2, final, rows)] if rows > 1 else [final]
    lines = [
        {"step": 10 * (i + 1), "train/loss": loss, "validation/loss": loss}
        | {"train/learning_rate": 0.001, "time/steps_per_second": 100.0}
        for i, loss in enumerate(map(float, losses))
    ]
    known = {
        "started": "2026-11-21T22:08:38+00:00",
        "pid": hash(folder) % 1000,
        "git": {"commit": "c0ffee", "dirty": False},
        "packages": {"jax": "0.10.2", "optax": "0.2.8"},
        "devices": ["cpu"],
        "program_key": f"{chosen['framework']}-{chosen['optimizer']}",
    }
    _write(folder, status, tree, known | dict(provenance or {}), lines)
    return folder


def _write(
    folder: Path, status: str, config: dict, provenance: dict, lines: list[dict]
) -> None:
    last = lines[-1]
    loss, step = last["validation/loss"], last["step"]
    summary = {
        "status": status,
        "steps": step,
        "final": {k: v for k, v in last.items() if k != "step"},
        "best": {"validation/loss": {"value": min(2.0, loss), "step": step}},
        "wall_seconds": 1.5,
        "compile_seconds": None,
    }
    folder.mkdir(parents=True)
    for name, value in (
        ("config", config),
        ("provenance", provenance),
        ("summary", summary),
    ):
        (folder / f"{name}.json").write_text(json.dumps(to_json(value)))
    text = "".join(json.dumps(to_json(line)) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def write_sweep(
    root: Path,
    seeds: Iterable[int],
    finals: Mapping[str, float],
    group: str = "optimizer",
    noise: float = 0.01,
    **same: Any,
) -> Sequence[Path]:
    """A run for each name in `finals` and each seed.

    Every seed shifts all its runs by a tenth; `noise` is each run's own.
    """
    shift, own = np.random.default_rng(0), np.random.default_rng(1)
    folders = []
    for seed in seeds:
        common = 0.1 * shift.standard_normal()
        for name, final in finals.items():
            value = final + common + noise * own.standard_normal()
            folder = root / f"{name}-{seed}"
            run = {"seed": seed, "final": value, group: name, **same}
            folders.append(write_run(folder, **run))
    return folders
