"""The interface of a loss: one value for each example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from runner.data.dataset import Dataset


class Loss(NamedTuple):
    """A loss and its metrics.

    Attributes:
      output_size: the size that a model's output for one example must have; raises
        ConfigError if the loss doesn't fit the data set.
      per_example: (outputs [B, output_size], batch) -> arrays [B], `loss` and metrics.
    """

    output_size: Callable[[Dataset], int]
    per_example: Callable[[jax.Array, dict[str, Any]], dict[str, jax.Array]]
