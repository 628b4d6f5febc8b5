"""A part of a run: what the function of a group returns, which must be of its kind."""

from typing import Any, get_args

import jax
from flax import linen, nnx
from omegaconf import DictConfig

from runner.config.instantiate import call, section
from runner.core.pipeline import Pipeline
from runner.data.dataset import Dataset
from runner.errors import ConfigError, what_is
from runner.models.model import Model
from runner.tasks.metric import Better, Metric
from runner.tasks.task import Task, is_shape

_KINDS = {
    "data": Dataset,
    "framework": Pipeline,
    "metrics": Metric,
    "model": Model,
    "task": Task,
}
_FUNCTIONS = {
    Metric: ("update", "finish"),
    Model: Model._fields,
    Pipeline: Pipeline._fields,
    Task: ("inputs", "loss"),
}


def part(cfg: DictConfig, key: str, **given: Any) -> Any:
    """`call`, whose result is checked.

    Raises:
      ConfigError: it isn't what `key`, such as `model` or `metrics.f1`, must be.
    """
    made = call(cfg, key, **given)
    kind = _KINDS.get(key.partition(".")[0])
    if kind is not None:
        _check(f"{key}: {section(cfg, key)._target_}", kind, made)
    return made


def _check(name: str, kind: type, made: Any) -> None:
    if not isinstance(made, kind):
        raise ConfigError(
            f"{name} returned {what_is(made)}, and must return a "
            f"{kind.__module__}.{kind.__name__}"
        )
    for field in _FUNCTIONS.get(kind, ()):
        _check_function(name, kind, field, getattr(made, field))
    if isinstance(made, Metric) and made.better not in (*get_args(Better), None):
        raise ConfigError(
            f"{name} returned a Metric of better={made.better!r}, which must be "
            "'min', 'max' or None"
        )
    if isinstance(made, Task):
        _check_output(name, made.output)
        for metric, own in made.metrics.items():
            _check(f"{name}: its metric {metric}", Metric, own)


def _check_function(name: str, kind: type, field: str, value: Any) -> None:
    if isinstance(value, linen.Module | nnx.Module):
        raise ConfigError(
            f"{name} returned a Model of {field}={type(value).__name__}(...), which "
            f"must be a function that makes it, such as {field}=lambda"
            f"{' rngs' if field == 'nnx' else ''}: {type(value).__name__}(...)"
        )
    if not callable(value) and not (kind is Model and value is None):
        raise ConfigError(
            f"{name} returned a {kind.__name__} of {field}={what_is(value)}, which "
            "must be a function"
        )


def _check_output(name: str, output: Any) -> None:
    for shape in jax.tree.leaves(output, is_leaf=is_shape):
        if not is_shape(shape):
            raise ConfigError(
                f"{name} returned a Task of output={output}, which must be the shape "
                "of an example's outputs, such as (10,), a tree of such, or None"
            )
