"""What released versions of optax do: golden_probes.json, from clean installations.

A module that replaces `optax.adam` at import replaces the reference of all other checks
too. `scripts/golden_probes.py` writes the file.
"""

import functools
import json
from importlib import resources
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from runner.checks.side_by_side import Toy
from runner.core.group import FACTOR
from runner.trees import flatten

TOLERANCE = 1e-5  # relative; eigenvectors and the like depend on the machine


class Golden(NamedTuple):
    """The shipped defaults of an optimizer, and the probe that it has with them."""

    learning_rate: float
    values: dict[str, float]
    probe: list[float]


def golden(toy: Toy, section: dict[str, Any]) -> tuple[Golden | None, str]:
    """The golden probe for a run's optimizer, and in words whether there is one.

    Args:
      toy: says which of its arguments are numbers.
      section: the optimizer's, of the configuration.
    """
    here = version("optax")
    if here not in _probes():
        return None, f"{here}, of which no probe is known"
    plain = toy.wanted.schedule is toy.wanted.base_schedule
    if toy.wanted.mask_weight_decay or not plain:
        return None, f"{here}, not probed with a mask or a plateau"
    section = flatten(section)
    for shipped, probe in _probes()[here].values():
        shipped = flatten(shipped)
        if _is_static_alike(section, shipped, toy.optimizer.hyperparameters):
            if probe is None:
                return None, f"{here}, not probed: rounding decides these updates"
            values = {k: v for k, v in shipped.items() if k != "learning_rate"}
            values["clip_global_norm"] = 1e30  # of which no gradient takes notice
            names = toy.optimizer.hyperparameters
            for group in toy.wanted.groups:
                rate = shipped.get(f"groups.{group.name}.learning_rate")
                factor = 1.0 if rate is None else rate / shipped["learning_rate"]
                values[group.key(FACTOR)] = factor
            values = {k: float(values[k]) for k in names}
            return Golden(shipped["learning_rate"], values, probe), here
    return None, f"{here}, not probed with these arguments"


def is_golden(golden: Golden, probe: list[float]) -> bool:
    """Whether `probe`, which the installed library has here, is the released one's."""
    ours, theirs = np.array(probe), np.array(golden.probe)
    if ours.shape != theirs.shape:
        return False
    scale = np.abs(theirs).max()
    return np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * scale)


def _is_static_alike(section: dict, shipped: dict, numbers: dict[str, float]) -> bool:
    """Whether two optimizers differ in the learning rate and in `numbers` alone."""
    if section.keys() != shipped.keys():
        return False
    return all(
        isinstance(shipped[key], float)
        if key in numbers or key.rpartition(".")[2] == "learning_rate"
        else section[key] == shipped[key]
        for key in section
    )


@functools.cache
def _probes() -> dict[str, dict[str, tuple[dict[str, Any], list[float] | None]]]:
    """By optax's version and the optimizer's name: its arguments and its probe."""
    file = resources.files("runner.checks").joinpath("golden_probes.json")
    return json.loads(file.read_text(encoding="utf-8"))
