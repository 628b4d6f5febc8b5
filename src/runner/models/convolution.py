"""What models of images share: convolution, BatchNorm and pooling of pure JAX."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from runner.errors import ConfigError
from runner.models import model as layers

EPSILON = 1e-5  # added to BatchNorm's variance; flax's default

Padding = Literal["SAME", "VALID"]


def image_shape(model: str, inputs: Any) -> tuple[int, int, int]:
    """Height, width and channels of a model's one input.

    Raises:
      ConfigError: it isn't an image.
    """
    shape = layers.single(model, inputs).shape
    if len(shape) != 3:
        raise ConfigError(
            f"model={model} needs images of shape (height, width, channels); the "
            f"examples of this data set have shape {shape}"
        )
    return shape


def convolve(
    params: dict[str, jax.Array],
    x: jax.Array,
    dtype: str,
    stride: int = 1,
    padding: Padding | Sequence[tuple[int, int]] = "SAME",
) -> jax.Array:
    """Images [B, height, width, I] by a kernel [..., I, O], plus a bias if any."""
    x, kernel = x.astype(dtype), params["kernel"].astype(dtype)
    x = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if "bias" in params:
        x = x + params["bias"].astype(dtype).reshape(1, 1, 1, -1)
    return x


def batch_norm(
    params: dict[str, jax.Array],
    stats: dict[str, jax.Array],
    x: jax.Array,
    momentum: float,
    train: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Ioffe and Szegedy, 2015, with flax's biased variance, E[x^2] - E[x]^2.

    Also in flax's order of operations, so that all three frameworks round alike.
    """
    dtype, x = x.dtype, x.astype(jnp.float32)
    mean, var = stats["mean"], stats["var"]
    if train:
        mean, square = (v.mean(axis=(0, 1, 2)) for v in (x, jnp.square(x)))
        var = jnp.maximum(0.0, square - jnp.square(mean))
        stats = {
            "mean": momentum * stats["mean"] + (1 - momentum) * mean,
            "var": momentum * stats["var"] + (1 - momentum) * var,
        }
    mean, var = (jnp.expand_dims(v, (0, 1, 2)) for v in (mean, var))
    scale, bias = (params[name].reshape(1, 1, 1, -1) for name in ("scale", "bias"))
    normalized = (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias
    return normalized.astype(dtype), stats


def batch_norm_init(features: int) -> tuple[dict, dict]:
    """Parameters and statistics, flax's defaults."""
    zeros, ones = (f(features, jnp.float32) for f in (jnp.zeros, jnp.ones))
    return {"scale": ones, "bias": zeros}, {"mean": zeros, "var": ones}
