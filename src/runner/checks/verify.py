"""Check that a pipeline updates parameters as the configured optimizer would.

flax #4087 was a mix-up of optimizers that everybody took for a difference between
frameworks. So, before training, the pipeline's own `apply_gradients` is driven with
fixed gradients, losses and learning rates, and each change that it makes to a parameter
is compared with that of the configured optimizer, used as optax's documentation says.
This runs in float64, so that rounding doesn't hide a weight decay.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from runner.checks.diagnose import looks_like
from runner.checks.problem import (
    STEPS,
    changes_of,
    float64_on_cpu,
    live_changes,
    live_step,
    start,
)
from runner.core.optimizers import OptimizerSpec
from runner.core.pipeline import Pipeline, TrainState
from runner.errors import ConfigError
from runner.trees import path_text

# Relative to the largest change of a parameter. Two float64 implementations of one
# formula agree to 1e-12; learning rates are float32, and a pipeline may compute them in
# its own way.
TOLERANCE = 1e-6


def verify(
    pipeline: Pipeline,
    init: Callable[[dict[str, Any]], TrainState],
    hyperparameters: dict[str, Any],
    wanted: OptimizerSpec,
) -> None:
    """Refuse a pipeline whose updates aren't those of `wanted`.

    Args:
      pipeline: the live one.
      init: returns its initial state for hyperparameters.
      hyperparameters: those of the run.
      wanted: the optimizer that the config asks for.

    Raises:
      ConfigError: names the parameter, the step, the change, the one expected, and the
        optimizer that the changes look like.
    """
    step = live_step(pipeline)
    _check(step, init, hyperparameters, wanted)
    if not hyperparameters:
        return
    # Runs that differ only in these share a compiled program, which must read them from
    # its arguments. A pipeline with built-in values is caught by other values.
    changed = {k: 0.9 * v for k, v in hyperparameters.items()}
    try:
        _check(step, init, changed, wanted.with_values(changed))
    except ConfigError as error:
        raise ConfigError(
            "verify: the pipeline doesn't use the hyperparameters that it is given. "
            f"With {changed}: {error}"
        ) from error


def _check(
    step: Callable,
    init: Callable[[dict[str, Any]], TrainState],
    hyperparameters: dict[str, Any],
    wanted: OptimizerSpec,
) -> None:
    initial = init(hyperparameters)
    with float64_on_cpu():
        state, problem = start(initial, wanted)
        observed = live_changes(step, state, problem, hyperparameters, wanted)
        replay = functools.partial(changes_of, problem=problem, wanted=wanted)
        expected = replay(wanted.textbook(problem.learning_rates))
        difference = _first_difference(observed, expected, problem.params)
        if not difference:
            return
        likeness = looks_like(observed, wanted, problem.learning_rates, replay)
    raise ConfigError(
        f"verify: the pipeline doesn't do what the config says. {difference}. "
        f"{likeness}. (verify=false trains anyway)"
    )


def _first_difference(observed: list, expected: list, params: Any) -> str | None:
    """The first step at which changes differ, and the parameter furthest off there."""
    for step, (ours, theirs) in enumerate(zip(observed, expected, strict=True)):
        worst, where = 0.0, ""
        leaves = jax.tree.leaves_with_path(ours)
        others = zip(*map(jax.tree.leaves, (theirs, params)), strict=True)
        for (path, change), (wanted, value) in zip(leaves, others, strict=True):
            eps = np.finfo(np.asarray(change).dtype).eps
            rounding = 4 * eps * np.max(np.abs(value), initial=1)
            tolerance = TOLERANCE * np.max(np.abs(wanted), initial=0) + rounding
            off = np.abs(np.asarray(change, float) - wanted)
            off = np.where(np.isnan(off) & np.isnan(wanted), 0, off)
            off = np.where(np.isnan(off), np.inf, off)
            if off.size and off.max() / tolerance > max(worst, 1):
                at = np.unravel_index(off.argmax(), off.shape)
                worst = off.max() / tolerance
                name = path_text(path)
                where = (
                    f"At step {step + 1} of {STEPS} it changed {name}"
                    f"{[int(i) for i in at]} by {np.asarray(change)[at]:.6g} instead "
                    f"of {wanted[at]:.6g}"
                )
        if where:
            return where
    return None
