"""Convolutional network: blocks of convolution, BatchNorm, activation and pooling.

The convolutions have no bias: BatchNorm would cancel it, and Adam would scale up its
gradient, which is nothing but rounding, to full size. Pooling takes means, as in flax's
own example: a maximum's gradient jumps at ties, so that one bit of rounding, say on a
different number of devices, shows in the loss.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen, nnx

from runner.errors import ConfigError
from runner.models import model as layers
from runner.models.model import Model

EPSILON = 1e-5  # added to BatchNorm's variance; flax's default
_init = jax.nn.initializers.lecun_normal()


class Linen(linen.Module):
    channels: Sequence[int]
    kernel_size: int
    hidden_size: int
    output_size: int
    activation: Callable
    dropout: float
    norm_momentum: float

    @linen.compact
    def __call__(self, x, train: bool):
        window = (self.kernel_size, self.kernel_size)
        for i, features in enumerate(self.channels):
            x = linen.Conv(features, window, use_bias=False, name=f"conv_{i}")(x)
            x = linen.BatchNorm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=EPSILON,
                name=f"norm_{i}",
            )(x)
            x = linen.avg_pool(self.activation(x), (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        x = self.activation(linen.Dense(self.hidden_size, name="dense")(x))
        x = linen.Dropout(self.dropout, deterministic=not train)(x)
        return linen.Dense(self.output_size, name="output")(x)


class Nnx(nnx.Module):
    def __init__(
        self, shape, channels, kernel_size, hidden_size, output_size, activation,
        dropout, norm_momentum, rngs: nnx.Rngs,
    ):  # fmt: skip
        height, width, features = shape
        self.blocks = len(channels)
        for i, out in enumerate(channels):
            window = (kernel_size, kernel_size)
            conv = nnx.Conv(features, out, window, use_bias=False, rngs=rngs)
            setattr(self, f"conv_{i}", conv)
            norm = nnx.BatchNorm(
                out, momentum=norm_momentum, epsilon=EPSILON, rngs=rngs
            )
            setattr(self, f"norm_{i}", norm)
            height, width, features = height // 2, width // 2, out
        self.dense = nnx.Linear(height * width * features, hidden_size, rngs=rngs)
        self.output = nnx.Linear(hidden_size, output_size, rngs=rngs)
        self.activation = activation
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        for i in range(self.blocks):
            x = getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(x))
            x = nnx.avg_pool(self.activation(x), (2, 2), strides=(2, 2))
        x = self.activation(self.dense(x.reshape(len(x), -1)))
        return self.output(self.dropout(x))


def cnn(
    *,
    input_shape: tuple[int, ...],
    output_size: int,
    channels: Sequence[int],
    kernel_size: int,
    hidden_size: int,
    activation: str,
    dropout: float,
    norm_momentum: float,
) -> Model:
    """Images [B, height, width, channels] -> [B, output_size].

    Args:
      input_shape: that of one image; each block halves its height and width.
      output_size: the size that the loss needs.
      channels: the output channels of each block's convolution.
      kernel_size: height and width of the convolution kernels.
      hidden_size: width of the dense layer before the output.
      activation: a function of `jax.nn`, by name.
      dropout: fraction of the hidden units zeroed in training.
      norm_momentum: decay of BatchNorm's running statistics, per microbatch.
    """
    layers.check_sizes(
        channels=channels, kernel_size=kernel_size, hidden_size=hidden_size
    )
    _check_shapes(input_shape, channels)
    layers.check_rate(dropout)
    act = layers.activation(activation)
    height, width = (side // 2 ** len(channels) for side in input_shape[:2])
    features = (input_shape[2], *channels)
    flat_size = height * width * features[-1]

    def init(key):
        keys = jax.random.split(key, len(channels) + 2)
        params, model_state = {}, {}
        for i, out in enumerate(channels):
            shape = (kernel_size, kernel_size, features[i], out)
            zeros, ones = jnp.zeros(out), jnp.ones(out)
            params[f"conv_{i}"] = {"kernel": _init(keys[i], shape)}
            params[f"norm_{i}"] = {"scale": ones, "bias": zeros}
            model_state[f"norm_{i}"] = {"mean": zeros, "var": ones}
        params["dense"] = layers.dense_init(keys[-2], flat_size, hidden_size)
        params["output"] = layers.dense_init(keys[-1], hidden_size, output_size)
        return params, model_state

    def forward(params, model_state, x, key, train):
        new_state = {}
        for i in range(len(channels)):
            x = _convolve(params[f"conv_{i}"], x)
            x, new_state[f"norm_{i}"] = _batch_norm(
                params[f"norm_{i}"], model_state[f"norm_{i}"], x, norm_momentum, train
            )
            x = _halve(act(x))
        x = act(layers.dense(params["dense"], x.reshape(len(x), -1)))
        x = layers.dropout(x, dropout, key, train)
        return layers.dense(params["output"], x), new_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(
            channels, kernel_size, hidden_size, output_size, act, dropout, norm_momentum
        ),
        nnx=lambda rngs: Nnx(
            input_shape, channels, kernel_size, hidden_size, output_size, act, dropout,
            norm_momentum, rngs,
        ),
    )  # fmt: skip


def _check_shapes(input_shape, channels):
    if len(input_shape) != 3:
        raise ConfigError(
            "model=cnn needs images of shape (height, width, channels); the examples "
            f"of this data set have shape {input_shape}"
        )
    if min(input_shape[:2]) < 2 ** len(channels):
        raise ConfigError(
            f"model.channels={list(channels)}: {len(channels)} blocks, each halving "
            f"height and width, need images of at least {2 ** len(channels)} pixels "
            f"a side; these have shape {input_shape}"
        )


def _convolve(params, x):
    return jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _halve(x):
    """Means over windows of 2 x 2."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / 4


def _batch_norm(params, stats, x, momentum, train):
    """Ioffe and Szegedy, 2015, with flax's biased variance, E[x^2] - E[x]^2.

    Also in flax's order of operations, so that all three frameworks round alike.
    """
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
    return (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias, stats
