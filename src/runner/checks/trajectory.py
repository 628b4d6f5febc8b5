"""The compiled trajectories of a program, which its runs share."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.checks.library import replaced
from runner.checks.live import checked
from runner.checks.problem import (
    EVERY,
    FORMULA_STEPS,
    STEPS,
    formula_problem,
    trajectory_problem,
)
from runner.checks.side_by_side import (
    SEEDS,
    Toy,
    Trajectory,
    Updates,
    formula,
    on_cpu,
    trajectory,
)
from runner.checks.toy import initial_values, toy_rows
from runner.core.compiling import QUICK, Compiling

VARIANTS = 3  # of the hyperparameters, in float64


class Trajectories:
    """Compiles the trajectories of a program in the background; runs share it.

    Args:
      toy: what they are taken with.
    """

    def __init__(self, toy: Toy):
        self.toy = toy._replace(pipeline=checked(toy.pipeline))
        params = initial_values(np.uint32(0), np, toy.groups)[0]
        schedule = toy.wanted.schedule
        problem = trajectory_problem(params, schedule)
        self.problem = jax.tree.map(np.float32, problem)
        self.formula_problem = formula_problem(params, schedule)

    @functools.cached_property
    def replaced(self) -> str | None:
        """What of the libraries something replaced before it was first asked for."""
        return replaced()

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        return toy_rows(self.toy.dataset)

    @functools.cached_property
    def _float32(self) -> Compiling:
        numbers = np.zeros(STEPS, np.float32), self._values(np.float32)
        return _compiling(partial(trajectory, self.toy), False, (
            self._rows, _keys(), self.problem, *numbers,
        ))  # fmt: skip

    @functools.cached_property
    def _float64(self) -> Compiling:
        values = {k: np.zeros(VARIANTS) for k in self._values(np.float64)}
        rates = np.zeros((VARIANTS, FORMULA_STEPS))
        arguments = self.formula_problem, rates, values
        return _compiling(partial(formula, self.toy), True, arguments)

    def start(self, verify: bool) -> None:
        """Begin to compile; `verify`: also what only verification needs."""
        with on_cpu(float64=False):
            _ = verify and self._float32
            _ = self._float64

    def take(self, rates: np.ndarray, hyperparameters: dict[str, float]) -> Trajectory:
        """The trajectory of a run in its own precision.

        Args:
          rates: the learning rate of each of STEPS steps.
          hyperparameters: those of the run.
        """
        values = {k: np.float32(v) for k, v in hyperparameters.items()}
        with on_cpu(float64=False):
            compiled = self._float32.result()
            found = compiled(self._rows, _keys(), self.problem, rates, values)
            return jax.device_get(found)

    def formula(self, rates: np.ndarray, values: dict[str, np.ndarray]) -> Updates:
        """The updates of several variants in float64: trees of [variants, steps, ...].

        Args:
          rates: learning rates [variants, FORMULA_STEPS].
          values: hyperparameters [variants].
        """
        with on_cpu(float64=True):
            found = self._float64.result()(self.formula_problem, rates, values)
            return jax.device_get(found)

    def _values(self, dtype: Any) -> dict[str, Any]:
        return {k: dtype(0) for k in self.toy.optimizer.hyperparameters}


class _Within(NamedTuple):
    """A jitted function that is traced as checks run."""

    jitted: Any
    float64: bool

    def lower(self, *arguments: Any) -> Any:
        with on_cpu(self.float64):
            return self.jitted.lower(*arguments)


def _compiling(function: Callable, float64: bool, arguments: tuple) -> Compiling:
    jitted = jax.jit(function, compiler_options=QUICK)
    return Compiling(_Within(jitted, float64), *arguments)


def _keys() -> np.ndarray:
    """Key data: those of SEEDS for the initial values, and one for each batch."""
    words = np.array([*SEEDS, *range(100, 100 + STEPS // EVERY)], np.uint32)
    return np.stack([np.zeros_like(words), words], axis=1)
