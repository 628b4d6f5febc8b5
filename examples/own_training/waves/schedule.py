"""Learning rates."""

import jax.numpy as jnp


def triangle(*, peak, steps):
    """From 0 up to `peak` in the middle, and down again."""
    return lambda step: peak * (1 - jnp.abs(2 * step / steps - 1))
