"""Convolutional network: blocks of convolution, BatchNorm, activation and pooling.

The convolutions have no bias: BatchNorm would cancel it, and Adam would scale up its
gradient, which is nothing but rounding, to full size. Pooling takes means, as in flax's
own example: a maximum's gradient jumps at ties, so that one bit of rounding, say on a
different number of devices, shows in the loss.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import linen, nnx

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.models import model as layers
from runner.models.convolution import (
    EPSILON,
    batch_norm,
    batch_norm_init,
    convolve,
    image_shape,
)
from runner.models.model import Model


class Linen(linen.Module):
    channels: Sequence[int]
    kernel_size: int
    hidden_size: int
    output_size: int
    activation: Callable
    dropout: float
    norm_momentum: float
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        window = (self.kernel_size, self.kernel_size)
        for i, features in enumerate(self.channels):
            x = linen.Conv(
                features, window, use_bias=False, dtype=self.dtype, name=f"conv_{i}"
            )(x)
            x = linen.BatchNorm(
                use_running_average=not train,
                momentum=self.norm_momentum,
                epsilon=EPSILON,
                dtype=self.dtype,
                name=f"norm_{i}",
            )(x)
            x = linen.avg_pool(self.activation(x), (2, 2), strides=(2, 2))
        dense = functools.partial(linen.Dense, dtype=self.dtype)
        x = self.activation(
            dense(self.hidden_size, name="dense")(x.reshape(len(x), -1))
        )
        x = linen.Dropout(self.dropout, deterministic=not train)(x)
        return dense(self.output_size, name="output")(x)


class Nnx(nnx.Module):
    def __init__(
        self, shape, channels, kernel_size, hidden_size, output_size, activation,
        dropout, norm_momentum, dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        height, width, features = shape
        self.blocks = len(channels)
        for i, out in enumerate(channels):
            window = (kernel_size, kernel_size)
            conv = nnx.Conv(
                features, out, window, use_bias=False, dtype=dtype, rngs=rngs
            )
            setattr(self, f"conv_{i}", conv)
            # In float32, and then cast, as linen's: with a dtype, nnx's would also cast
            # what it has learned and, in evaluation, the statistics.
            norm = nnx.BatchNorm(
                out, momentum=norm_momentum, epsilon=EPSILON, rngs=rngs
            )
            setattr(self, f"norm_{i}", norm)
            height, width, features = height // 2, width // 2, out
        size = height * width * features
        self.dense = nnx.Linear(size, hidden_size, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden_size, output_size, dtype=dtype, rngs=rngs)
        self.activation, self.dtype = activation, dtype
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        for i in range(self.blocks):
            x = getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(x))
            x = x.astype(self.dtype)
            x = nnx.avg_pool(self.activation(x), (2, 2), strides=(2, 2))
        x = self.activation(self.dense(x.reshape(len(x), -1)))
        return self.output(self.dropout(x))


def cnn(
    *,
    inputs: Feature,
    output: tuple[int, ...],
    dtype: str,
    channels: Sequence[int],
    kernel_size: int,
    hidden_size: int,
    activation: str,
    dropout: float,
    norm_momentum: float,
) -> Model:
    """Images [B, height, width, channels] -> [B, output_size].

    Args:
      inputs: an image [height, width, channels]; each block halves the first two.
      output: the shape that the task needs, of one dimension.
      dtype: what layers compute in; parameters and statistics are float32.
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
    image = image_shape("cnn", inputs)
    _check_shapes(image, channels)
    output_size = layers.output_size("cnn", output)
    layers.check_rates(dropout=dropout)
    act = layers.activation(activation)
    height, width = (side // 2 ** len(channels) for side in image[:2])
    features = (image[2], *channels)
    flat_size = height * width * features[-1]

    def init(key):
        keys = jax.random.split(key, len(channels) + 2)
        params, model_state = {}, {}
        for i, out in enumerate(channels):
            shape = (kernel_size, kernel_size, features[i], out)
            params[f"conv_{i}"] = {"kernel": layers.lecun_normal(keys[i], shape)}
            params[f"norm_{i}"], model_state[f"norm_{i}"] = batch_norm_init(out)
        params["dense"] = layers.dense_init(keys[-2], flat_size, hidden_size)
        params["output"] = layers.dense_init(keys[-1], hidden_size, output_size)
        return params, model_state

    def forward(params, model_state, x, key, train):
        new_state = {}
        for i in range(len(channels)):
            x = convolve(params[f"conv_{i}"], x, dtype)
            x, new_state[f"norm_{i}"] = batch_norm(
                params[f"norm_{i}"], model_state[f"norm_{i}"], x, norm_momentum, train
            )
            x = _halve(act(x))
        x = act(layers.dense(params["dense"], x.reshape(len(x), -1), dtype))
        x = layers.dropout(x, dropout, key, train)
        return layers.dense(params["output"], x, dtype), new_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(
            channels, kernel_size, hidden_size, output_size, act, dropout,
            norm_momentum, dtype,
        ),
        nnx=lambda rngs: Nnx(
            image, channels, kernel_size, hidden_size, output_size, act, dropout,
            norm_momentum, dtype, rngs,
        ),
    )  # fmt: skip


def _check_shapes(image, channels):
    if min(image[:2]) < 2 ** len(channels):
        raise ConfigError(
            f"model.channels={list(channels)}: {len(channels)} blocks, each halving "
            f"height and width, need images of at least {2 ** len(channels)} pixels "
            f"a side; these have shape {image}"
        )


def _halve(x):
    """Means over windows of 2 x 2."""
    window = (1, 2, 2, 1)
    zero = x.dtype.type(0)
    return jax.lax.reduce_window(x, zero, jax.lax.add, window, window, "VALID") / 4
