"""The interface of a metric: sums over batches, and the numbers that they amount to."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from runner.errors import ConfigError, InPart

Better = Literal["min", "max"]


class Metric(NamedTuple):
    """A number, or several, that says how good outputs are.

    Attributes:
      update: (outputs, batch, counted) -> sums, a tree of arrays, which are added up
        over batches, devices and processes. `counted`, bool in the shape of the loss's
        values ([B] or [B, T]), is False for padding and whatever the loss leaves out.
      finish: sums -> a scalar, or a dict of them.
      better: whether lower ("min") or higher ("max") values are better; None: neither,
        so nothing can be ranked by it.
    """

    update: Callable[[Any, dict[str, Any], jax.Array], Any]
    finish: Callable[[Any], Any]
    better: Better | None


def average(
    values: Callable[[Any, dict[str, Any]], jax.Array],
    better: Better | None,
    finish: Callable[[jax.Array], jax.Array] = lambda mean: mean,
) -> Metric:
    """The mean of what counts.

    Args:
      values: (outputs, batch) -> a value for each example [B] or token [B, T]; one of
        more dimensions than the loss has is averaged over the last ones first.
      better: see `Metric`.
      finish: applied to the mean.
    """

    def update(outputs, batch, counted):
        with InPart(""):
            each = jnp.asarray(values(outputs, batch), jnp.float32)
        counted, each = matched(counted, each)
        return {"sum": jnp.sum(jnp.where(counted, each, 0)), "count": counted.sum()}

    return Metric(update, lambda s: finish(s["sum"] / s["count"]), better)


def matched(counted: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in the number of dimensions that they have in common.

    Raises:
      ConfigError: their shapes differ in these.
    """
    shapes = values.shape, counted.shape
    if values.ndim < counted.ndim:
        counted = counted.any(axis=tuple(range(values.ndim, counted.ndim)))
    elif values.ndim > counted.ndim:
        values = values.mean(axis=tuple(range(counted.ndim, values.ndim)))
    if counted.shape != values.shape:
        raise ConfigError(
            f"its values have shape {shapes[0]}, and the loss has those of shape "
            f"{shapes[1]}: they need one for each example"
        )
    return counted, values
