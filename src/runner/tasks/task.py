"""The interface of a task: what a model's outputs mean."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from runner.data.dataset import Feature
from runner.data.transforms import Batch
from runner.errors import ConfigError, InPart, did_you_mean, what_is
from runner.tasks.metric import Better, Metric


class Task(NamedTuple):
    """What is learnt from batches.

    Attributes:
      inputs: batch -> what the model gets. Nothing else of a batch reaches a model.
      output: the shape of the outputs that the loss needs for one example, or a tree of
        shapes (tuples of ints); None takes any, and the loss raises what is wrong.
      loss: (outputs, batch) -> (values [B, ...], weights): the loss of each example, or
        of each token, and how much it counts, in a shape that broadcasts to theirs. The
        loss of a batch is sum(weights * values) / sum(weights).
      metrics: those that the task has by itself, by name, besides the configured ones.
    """

    inputs: Callable[[Batch], Any]
    output: Any
    loss: Callable[[Any, Batch], tuple[jax.Array, Any]]
    metrics: Mapping[str, Metric] = {}


class Sums(NamedTuple):
    """Sums over a batch or several; adding them up is exact for any cut into batches.

    Attributes:
      loss: float32, the sum of weights * values.
      weight: float32, the sum of the weights.
      metrics: the sums of each metric, by its name.
    """

    loss: Any
    weight: Any
    metrics: dict[str, Any]


def sums(
    task: Task, outputs: Any, batch: Batch, is_example: jax.Array | None = None
) -> Sums:
    """The sums of a batch.

    Args:
      task: says what to compute.
      outputs: the model's, for this batch.
      batch: arrays [B, ...] by name.
      is_example: bool [B]; rows where it is False, which may hold anything, don't
        count. None: all count.
    """
    with InPart("task"):
        lost = task.loss(outputs, batch)
    if not isinstance(lost, tuple | list) or len(lost) != 2:
        raise ConfigError(
            f"task: the loss returned {what_is(lost)}, and must return a tuple of two: "
            "the loss of each example, and how much each counts (1.0: all alike)"
        )
    values, weights = lost
    values = jnp.asarray(values, jnp.float32)
    _check_loss(values, weights, batch)
    weights = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), values.shape)
    if is_example is not None:
        padding = (...,) + (None,) * (values.ndim - 1)
        weights = jnp.where(is_example[padding], weights, 0)
    counted = weights != 0
    loss = jnp.sum(jnp.where(counted, weights * values, 0))
    metrics = {
        name: _metric_sums(name, metric, outputs, batch, counted)
        for name, metric in task.metrics.items()
    }
    return Sums(loss, jnp.sum(weights), metrics)


def _check_loss(values: jax.Array, weights: Any, batch: Batch) -> None:
    sizes = {len(column) for column in batch.values()}
    if values.shape[:1] not in {(size,) for size in sizes}:
        raise ConfigError(
            f"task: the loss has values of shape {values.shape}, and needs one for "
            f"each example of a batch, in shape ({min(sizes)},) or ({min(sizes)}, ...)"
        )
    try:
        shape = jnp.broadcast_shapes(values.shape, jnp.shape(weights))
    except ValueError:
        shape = None
    if shape != values.shape:
        raise ConfigError(
            f"task: the loss has weights of shape {jnp.shape(weights)}, which must "
            f"broadcast to its values of shape {values.shape}"
        )


def _metric_sums(
    name: str, metric: Metric, outputs: Any, batch: Batch, counted: jax.Array
) -> Any:
    try:
        with InPart(f"metrics.{name}"):
            return jax.tree.map(_wide, metric.update(outputs, batch, counted))
    except ConfigError as error:
        raise ConfigError(f"metrics.{name}: {error}") from error


def _wide(total: Any) -> jax.Array:
    """`total` in 32 bits, if it is in fewer: those of many batches don't fit there.

    int8 ends at 127, and in bfloat16 256 and 1 are 256. Flags stay flags.
    """
    total = jnp.asarray(total)
    if total.dtype.itemsize >= 4 or total.dtype == bool:
        return total
    is_whole = jnp.issubdtype(total.dtype, jnp.integer)
    return total.astype(jnp.int32 if is_whole else jnp.float32)


def mean(loss: jax.Array, weight: jax.Array) -> jax.Array:
    """`loss / weight`; 0 where nothing counts."""
    return loss / jnp.where(weight != 0, weight, 1)


def numbers(task: Task, total: Sums) -> dict[str, jax.Array]:
    """The loss and the metrics that `total` amounts to, by name.

    A metric of several numbers gives `name/part` for each. Integers stay what they are,
    since float32 counts to 2^24; all others become float32.
    """
    found = {"loss": exact(mean(total.loss, total.weight))}
    for name, metric in task.metrics.items():
        with InPart(f"metrics.{name}"):
            value = metric.finish(total.metrics[name])
        parts = value if isinstance(value, dict) else {"": value}
        for part, number in parts.items():
            try:
                number = exact(number)
            except (TypeError, ValueError):  # text, say
                kind = f"a {type(number).__name__}"
            else:
                kind = f"shape {number.shape}"
            if kind != "shape ()":
                raise ConfigError(
                    f"metrics.{name}: finish returns {kind}, and must return a number, "
                    "shape (), or a dict of numbers"
                )
            found[f"{name}/{part}" if part else name] = number
    return found


def exact(number: Any) -> jax.Array:
    """`number` as an array: an integer as it is, any other in float32."""
    found = jnp.asarray(number)
    is_whole = jnp.issubdtype(found.dtype, jnp.integer)
    return found if is_whole else found.astype(jnp.float32)


def is_shape(node: Any) -> bool:
    """Whether `node` is one of the shapes in a `Task.output`, not a tuple of them."""
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def directions(task: Task) -> dict[str, Better | None]:
    """For the loss and each metric, by name, which values are better."""
    found: dict[str, Better | None] = {"loss": "min"}
    found.update({name: metric.better for name, metric in task.metrics.items()})
    return found


def columns(
    inputs: str | list[str], features: Mapping[str, Feature]
) -> Callable[[Batch], Any]:
    """A `Task.inputs` that gives one column, or a dict of several.

    Raises:
      ConfigError: the data have no such column.
    """
    for name in [inputs] if isinstance(inputs, str) else inputs:
        feature("inputs", name, features)
    if isinstance(inputs, str):
        return lambda batch: batch[inputs]
    return lambda batch: {name: batch[name] for name in inputs}


def weights(
    key: str, name: str | None, auto: str, features: Mapping[str, Feature]
) -> Callable[[Batch], Any]:
    """A function that gives the weights of a batch, to multiply with others.

    Args:
      key: of the task's arguments, for the message.
      name: the column with the weights; None: 1 for all; "auto": the column `auto` if
        there is one.
      auto: a column.
      features: the columns of the data.

    Raises:
      ConfigError: the data have no such column.
    """
    if name == "auto":
        name = auto if auto in features else None
    if name is None:
        return lambda batch: 1.0
    feature(key, name, features)
    return lambda batch: batch[name]


def feature(key: str, name: str, features: Mapping[str, Feature]) -> Feature:
    """The feature that `task.<key>` names.

    Raises:
      ConfigError: the data have no such column.
    """
    if name not in features:
        raise ConfigError(
            f"task.{key}={name} is not a column of the data, which has "
            f"{', '.join(features)}.{did_you_mean(name, features)}"
        )
    return features[name]
