"""One point, whatever the input: what DeepOBS' stochastic quadratics optimize.

Schneider et al., 2019: https://arxiv.org/abs/1903.05499
"""

import jax
import jax.numpy as jnp
from flax import linen, nnx

from runner.data.dataset import Feature
from runner.models.model import Model, input_size


class Linen(linen.Module):
    size: int
    start: float
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        start = linen.initializers.constant(self.start)
        theta = self.param("theta", start, (self.size,))
        return _repeated(theta, x, self.dtype)


class Nnx(nnx.Module):
    def __init__(self, size: int, start: float, dtype: str, rngs: nnx.Rngs):
        self.theta = nnx.Param(jnp.full(size, start, jnp.float32))
        self.dtype = dtype

    def __call__(self, x):
        return _repeated(self.theta[...], x, self.dtype)


def quadratic(*, inputs: Feature, dtype: str, start: float) -> Model:
    """A point theta [D]: inputs [B, ...] -> [B, D], the same for each.

    Args:
      inputs: the feature that the model gets; only its size matters.
      dtype: of the outputs; the point is float32.
      start: the initial value of each coordinate.
    """
    size = input_size("quadratic", inputs)

    def init(key):
        return {"theta": jnp.full(size, start, jnp.float32)}, {}

    def forward(params, model_state, x, key, train):
        return _repeated(params["theta"], x, dtype), model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(size, start, dtype),
        nnx=lambda rngs: Nnx(size, start, dtype, rngs),
    )


def _repeated(theta: jax.Array, x: jax.Array, dtype: str) -> jax.Array:
    return jnp.broadcast_to(theta.astype(dtype), (len(x), theta.size))
