"""The task of predicting numbers."""

from collections.abc import Mapping

import jax.numpy as jnp

from runner.data.dataset import Feature
from runner.tasks.task import Task, columns, feature


def regression(
    *, features: Mapping[str, Feature], inputs: str | list[str], target: str
) -> Task:
    """Mean squared error between outputs and a column, of the same shape.

    Args:
      features: the columns of the data.
      inputs: the column that the model gets, or several as a dict.
      target: the column to predict; of scalars, the outputs are [B, 1].

    Raises:
      ConfigError: the data have no such column.
    """
    shape = feature("target", target, features).shape or (1,)

    def loss(outputs, batch):
        difference = outputs - batch[target].reshape(outputs.shape)
        squares = jnp.square(difference.astype(jnp.float32))
        return squares.mean(axis=tuple(range(1, squares.ndim))), 1.0

    return Task(columns(inputs, features), shape, loss)
