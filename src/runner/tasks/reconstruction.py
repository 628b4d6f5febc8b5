"""The task of reconstructing an input."""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from runner.data.dataset import Feature
from runner.tasks.task import Task, columns, feature


def reconstruction(*, features: Mapping[str, Feature], inputs: str) -> Task:
    """Mean squared error between outputs [B, size] and the flattened input.

    Args:
      features: the columns of the data.
      inputs: the column that the model gets and has to reproduce.

    Raises:
      ConfigError: the data have no such column.
    """
    size = math.prod(feature("inputs", inputs, features).shape)

    def loss(outputs, batch):
        difference = outputs - batch[inputs].reshape(outputs.shape)
        return jnp.mean(jnp.square(difference.astype(jnp.float32)), axis=-1), 1.0

    return Task(columns(inputs, features), (size,), loss)
