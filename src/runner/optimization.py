"""The optimization that a config asks for, built as optax's documentation does."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.optimizers import decayed_parameters, mask_argument, toy_update
from runner.schedules import ReduceOnPlateau, Schedule


class Optimization(NamedTuple):
    """The optimization that the resolved config asks for.

    Attributes:
      factory: the optimizer's function and all of its arguments.
      schedule: of the learning rate, maybe with a plateau rule.
      steps: the length of the run.
      clip_global_norm, mask_weight_decay: as in the `train` section.
    """

    factory: functools.partial
    schedule: Schedule | ReduceOnPlateau
    steps: int
    clip_global_norm: float | None
    mask_weight_decay: bool

    @property
    def text(self) -> str:
        """What a person calls it, such as "optax.adam(0.001)"."""
        package = self.factory.func.__module__.split(".")[0]
        rate = self.factory.keywords["learning_rate"]
        return f"{package}.{self.factory.func.__name__}({rate:g})"

    def learning_rates(self, count: int) -> np.ndarray:
        """The schedule at `count` steps spread over the run, in float64."""
        schedule = self.schedule
        base = schedule.base if isinstance(schedule, ReduceOnPlateau) else schedule
        at = np.linspace(0, self.steps - 1, count).astype(int)
        return np.array([float(base(int(step))) for step in at])

    def textbook(self, rates: np.ndarray) -> optax.GradientTransformationExtraArgs:
        """Clipping, the optimizer with a schedule, the plateau: optax, plainly chained.

        Args:
          rates: the learning rate of each step.
        """
        arguments = dict(self.factory.keywords)
        if self.mask_weight_decay:
            arguments[mask_argument(self.factory.func)] = decayed_parameters
        arguments["learning_rate"] = lambda count: jnp.asarray(rates)[count]
        parts = []
        if self.clip_global_norm is not None:
            parts.append(optax.clip_by_global_norm(self.clip_global_norm))
        parts.append(_scheduled(self.factory.func, arguments))
        if isinstance(self.schedule, ReduceOnPlateau):
            parts.append(self.schedule.transformation)
        return optax.chain(*parts)


def _scheduled(function: Callable, arguments: dict) -> optax.GradientTransformation:
    """`function` with a schedule; where it takes none, with each step's value of it."""
    try:
        jax.eval_shape(lambda: toy_update(function(**arguments)))
    except (TypeError, ValueError):
        others = set(arguments) - {"learning_rate"}
        return optax.inject_hyperparams(function, static_args=others)(**arguments)
    return function(**arguments)
