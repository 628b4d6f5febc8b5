"""Turns a change of an honest pipeline into a target, for each framework."""

import inspect
from collections.abc import Callable

from runner.core.pipeline import Pipeline
from runner.frameworks import jax, linen, nnx

FRAMEWORKS = {"jax": jax, "linen": linen, "nnx": nnx}


def sabotage(change: Callable) -> Callable[..., Pipeline]:
    """A target that builds the pipeline of `base` and changes some of its functions.

    Args:
      change: (honest, model, task, optimizer) -> {name: function}, of those that it
        asks for by name.
    """

    def pipeline(model, task, optimizer, example, base: str = "jax"):
        make = FRAMEWORKS[base].pipeline
        given = {"model": model, "task": task, "optimizer": optimizer}
        honest = _called(make, given | {"example": example})
        return honest._replace(**_called(change, given | {"honest": honest}))

    return pipeline


def with_task(change: Callable) -> Callable[..., Pipeline]:
    """A target whose pipeline learns `change(task)`."""

    def pipeline(model, task, optimizer, example, base: str = "jax"):
        parts = {"model": model, "optimizer": optimizer, "example": example}
        return _called(FRAMEWORKS[base].pipeline, parts | {"task": change(task)})

    return pipeline


def _called(function: Callable, given: dict):
    names = inspect.signature(function).parameters
    return function(**{name: given[name] for name in names})
