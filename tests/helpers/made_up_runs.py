"""Runs with made-up numbers, for what compare draws."""

import math
from pathlib import Path

from runner.compare.load import Record, tables


def run(folder, seed=0, rate=0.01, final=1.0, steps=4, status="finished", **choices):
    """A run whose losses fall to `final`; choices are of optimizer, schedule, ..."""
    choices = {"optimizer": "adam", "schedule": "constant", **choices}
    optimizer = {"_target_": f"optax.{choices['optimizer']}", "learning_rate": rate}
    return Record(
        Path("/runs") / folder,
        {"seed": seed, "optimizer": optimizer, "hydra": {"choices": choices}},
        {},
        {"status": status, "final": {"validation/loss": final}, "wall_seconds": 1.5},
        [
            {
                "step": 10 * (i + 1),
                "train/loss": final * (1 + 1 / (i + 1)),
                "validation/loss": final * (steps - i),
                "train/learning_rate": rate,
            }
            for i in range(steps)
        ],
    )


def sweep(optimizers=("adam", "sgd"), schedules=("constant",), rates=(0.01,), seeds=3):
    """Every combination. Later optimizers are worse, and rates away from 0.01."""
    records = []
    for place, optimizer in enumerate(optimizers):
        for schedule in schedules:
            for rate in rates:
                for seed in range(seeds):
                    final = (1 + place) * (1 + abs(math.log10(rate) + 2))
                    final += 0.01 * seed + 0.5 * schedules.index(schedule)
                    name = f"{optimizer}-{schedule}-{rate}-{seed}"
                    choices = {"optimizer": optimizer, "schedule": schedule}
                    records.append(run(name, seed, rate, final, **choices))
    return tables(records)
