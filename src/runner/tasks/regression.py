"""The task of predicting numbers."""

from collections.abc import Mapping

import jax.numpy as jnp

from runner.data.dataset import Feature
from runner.tasks import task as common
from runner.tasks.task import Task, columns, feature


def regression(
    *,
    features: Mapping[str, Feature],
    inputs: str | list[str],
    target: str,
    weights: str | None = None,  # as where it isn't recorded
) -> Task:
    """Mean squared error between outputs and a column, of the same shape.

    Args:
      features: the columns of the data.
      inputs: the column that the model gets, or several as a dict.
      target: the column to predict; of scalars, the outputs are [B, 1].
      weights: a column with the weight of each example; None: 1 for all; "auto": the
        column `weight` if the data have one.

    Raises:
      ConfigError: the data have no such column.
    """
    weight = common.weights("weights", weights, "weight", features)
    shape = feature("target", target, features).shape or (1,)

    def loss(outputs, batch):
        difference = outputs - batch[target].reshape(outputs.shape)
        squares = jnp.square(difference.astype(jnp.float32))
        return squares.mean(axis=tuple(range(1, squares.ndim))), weight(batch)

    return Task(columns(inputs, features), shape, loss)
