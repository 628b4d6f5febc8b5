"""How many predictions are close enough."""

import jax.numpy as jnp

from runner.tasks.metric import average


def close(*, target, tolerance):
    """The share of examples whose error is below `tolerance`."""

    def values(outputs, batch):
        return jnp.abs(outputs[:, 0] - batch[target]) < tolerance

    return average(values, better="max")
