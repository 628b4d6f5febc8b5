"""The steps that frameworks take from the same states, and how far apart they are."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.core import feed, step
from runner.core.run import Run
from runner.core.step import Carry
from runner.errors import ConfigError
from runner.trees import by_path, kinds


class Difference(NamedTuple):
    """The largest relative differences from the reference in each step.

    Attributes:
      loss, grad_norm, params: float64 [steps]; a parameter's is relative to the largest
        absolute value in it.
      worst: the path of the parameter that differs most after each step.
      initial: the largest relative difference of a parameter before the first step.
    """

    loss: np.ndarray
    grad_norm: np.ndarray
    params: np.ndarray
    worst: list[str]
    initial: float = 0.0

    @property
    def largest(self) -> np.ndarray:
        """The largest of the three, float64 [steps]."""
        return np.max([self.loss, self.grad_norm, self.params], axis=0)


class Framework:
    """One framework's steps of a run.

    Args:
      run: the run in that framework.
      jitted: its training step, from the function of that name.
    """

    def __init__(self, run: Run, jitted: Any):
        self._run, self._jitted = run, jitted
        spec = run.spec
        self.carry = spec.init(*run.init_arguments)
        self._columns = feed.device_data(spec.dataset, spec.mesh).train
        self._batches = feed.TrainFeed(spec.dataset, [run.order], spec.mesh, start=0)

    def take(self, k: int, carry: Carry) -> tuple[float, float]:
        """Take step `k` from another framework's `carry`.

        Returns:
          the loss and the gradient norm.
        """
        rates, no_loss = self._run.learning_rates[k : k + 1], np.float32(np.inf)
        self.carry, rows = self._jitted(
            moved(carry, self.carry), self._columns, self._batches.take(1), rates,
            np.int32(k), no_loss, self._run.values,
        )  # fmt: skip
        return rows["train/loss"][0], rows["train/grad_norm"][0]

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters after the last step, by their paths."""
        return by_path(jax.device_get(self.carry.state.params))


def jitted(run: Run) -> Any:
    """The training step of `run`, which runs of other learning rates may share."""
    spec = run.spec
    one = step.train_step(
        spec.pipeline, spec.task, spec.dataset.transforms, spec.microbatches
    )
    return jax.jit(step.train_call(one, 1, 1, looped=False, devices=1))


def differences(
    built: Mapping[str, tuple[Run, Any]], steps: int
) -> dict[str, Difference]:
    """How far each framework is from the first of them, step by step.

    All take each step from the state that the first has reached, with the same batch,
    so nothing adds up.

    Args:
      built: the run of each framework, and what `jitted` makes of it.
      steps: how many.

    Raises:
      ConfigError: a framework's state isn't like the first one's.
    """
    frameworks = {name: Framework(*one) for name, one in built.items()}
    first, *others = frameworks
    reference, found = frameworks[first], {name: [] for name in others}
    before = {name: one.params for name, one in frameworks.items()}
    for k in range(steps):
        carry = reference.carry
        taken = {name: one.take(k, carry) for name, one in frameworks.items()}
        right = reference.params
        for name in others:
            off = map(relative, taken[name], taken[first])
            found[name].append((*off, apart(frameworks[name].params, right)))
    return {
        name: _difference(rows, max(apart(before[name], before[first]).values()))
        for name, rows in found.items()
    }


def _difference(
    rows: list[tuple[float, float, dict[str, float]]], initial: float
) -> Difference:
    """Of rows with the differences of loss, gradient norm and each parameter."""
    loss, norm, params = zip(*rows, strict=True)
    return Difference(
        np.array(loss),
        np.array(norm),
        np.array([max(paths.values()) for paths in params]),
        [max(paths, key=paths.__getitem__) for paths in params],
        initial,
    )


def moved(carry: Carry, like: Carry) -> Carry:
    """`carry` of one framework as another has it, whose own is `like`.

    Raises:
      ConfigError: they haven't the same parameters, or not the same arrays.
    """
    paths, its_paths = (set(by_path(c.state.params)) for c in (carry, like))
    if paths != its_paths:
        odd = ", ".join(sorted(paths ^ its_paths))
        raise ConfigError(f"the frameworks' parameters differ in {odd}")
    ours, theirs = kinds(carry), kinds(like)
    if ours != theirs:
        raise ConfigError(
            "the frameworks have the same parameters, but another state beside them: "
            f"{len(ours)} and {len(theirs)} arrays in all"
        )
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(carry))


def apart(
    ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The relative difference of each parameter."""
    return {path: relative(ours[path], value) for path, value in reference.items()}


def relative(a: Any, b: Any) -> float:
    """The largest difference, relative to the largest absolute value in `b`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    off = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)
    return float(off) if np.isfinite(off) else np.inf


def tolerance(precision: Mapping[str, str], backend: str) -> float:
    """The relative difference that rounding may make in one step.

    A few times the unit of rounding of what products are computed in: float32 on CPU
    and with `matmul=highest`; else TF32 on a GPU and, on a TPU, one or three bfloat16
    (`jax.lax.Precision`).

    Args:
      precision: that section of the configuration.
      backend: jax.default_backend().
    """
    matmul = precision["matmul"]
    if precision["compute"] == "bfloat16" or (backend, matmul) == ("tpu", "default"):
        return 2**-6
    return 1e-5 if backend == "cpu" or matmul == "highest" else 2**-9
