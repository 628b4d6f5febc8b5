"""Residual network for small images: He et al., 2015, section 4.2.

https://arxiv.org/abs/1512.03385. Shortcuts have no parameters: where a block halves the
image, they take every second pixel and fill the new channels with zeros ("option A").
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
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

KERNEL = (3, 3)
PADDING = ((1, 1), (1, 1))  # as in the paper's code: SAME is another at a stride of 2


class LinenBlock(linen.Module):
    features: int
    stride: int
    norm_momentum: float
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        y = x
        for i, stride in enumerate((self.stride, 1)):
            y = linen.Conv(
                self.features, KERNEL, stride, PADDING, use_bias=False,
                dtype=self.dtype, name=f"conv_{i}",
            )(y)  # fmt: skip
            y = linen.BatchNorm(
                not train, momentum=self.norm_momentum, epsilon=EPSILON,
                dtype=self.dtype, name=f"norm_{i}",
            )(y)  # fmt: skip
            if i == 0:
                y = linen.relu(y)
        return linen.relu(y + _shortcut(x, self.features, self.stride))


class Linen(linen.Module):
    blocks: Sequence[tuple[int, int]]
    output_size: int
    norm_momentum: float
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(
            self.blocks[0][0], KERNEL, padding=PADDING, use_bias=False,
            dtype=self.dtype, name="conv",
        )(x)  # fmt: skip
        x = linen.BatchNorm(
            not train, momentum=self.norm_momentum, epsilon=EPSILON, dtype=self.dtype,
            name="norm",
        )(x)  # fmt: skip
        x = linen.relu(x)
        for i, (features, stride) in enumerate(self.blocks):
            x = LinenBlock(
                features, stride, self.norm_momentum, self.dtype, name=f"block_{i}"
            )(x, train)
        dense = linen.Dense(self.output_size, dtype=self.dtype, name="output")
        return dense(x.mean(axis=(1, 2)))


class NnxBlock(nnx.Module):
    def __init__(self, inputs, features, stride, norm_momentum, dtype, rngs: nnx.Rngs):
        self.conv_0 = _nnx_conv(inputs, features, stride, dtype, rngs)
        self.norm_0 = _nnx_norm(features, norm_momentum, rngs)
        self.conv_1 = _nnx_conv(features, features, 1, dtype, rngs)
        self.norm_1 = _nnx_norm(features, norm_momentum, rngs)
        self.features, self.stride, self.dtype = features, stride, dtype

    def __call__(self, x):
        y = nnx.relu(self.norm_0(self.conv_0(x)).astype(self.dtype))
        y = self.norm_1(self.conv_1(y)).astype(self.dtype)
        return nnx.relu(y + _shortcut(x, self.features, self.stride))


class Nnx(nnx.Module):
    def __init__(
        self, channels, blocks, output_size, norm_momentum, dtype, rngs: nnx.Rngs
    ):
        width = blocks[0][0]
        self.conv = _nnx_conv(channels, width, 1, dtype, rngs)
        self.norm = _nnx_norm(width, norm_momentum, rngs)
        self.blocks, self.dtype = len(blocks), dtype
        for i, (features, stride) in enumerate(blocks):
            block = NnxBlock(width, features, stride, norm_momentum, dtype, rngs)
            setattr(self, f"block_{i}", block)
            width = features
        self.output = nnx.Linear(width, output_size, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)).astype(self.dtype))
        for i in range(self.blocks):
            x = getattr(self, f"block_{i}")(x)
        return self.output(x.mean(axis=(1, 2)))


def _nnx_conv(inputs, features, stride, dtype, rngs):
    return nnx.Conv(
        inputs, features, KERNEL, stride, padding=PADDING, use_bias=False, dtype=dtype,
        rngs=rngs,
    )  # fmt: skip


def _nnx_norm(features, momentum, rngs):
    """In float32, as in models/cnn.py; what calls it casts."""
    return nnx.BatchNorm(features, momentum=momentum, epsilon=EPSILON, rngs=rngs)


def resnet(
    *,
    inputs: Feature,
    output: tuple[int, ...],
    dtype: str,
    depth: int,
    width: int,
    norm_momentum: float,
) -> Model:
    """Images [B, height, width, channels] -> [B, output_size].

    Args:
      inputs: an image [height, width, channels].
      output: the shape that the task needs, of one dimension.
      dtype: what layers compute in; parameters and statistics are float32.
      depth: the layers with parameters, 6 n + 2: n blocks of two convolutions at each
        of three sizes of the image.
      width: the channels at the first of them; they double with each halving.
      norm_momentum: decay of BatchNorm's running statistics, per microbatch.

    Raises:
      ConfigError: there is no network of that depth.
    """
    if depth < 8 or depth % 6 != 2:
        lower = max(depth - (depth - 2) % 6, 8)
        raise ConfigError(
            f"model.depth={depth} must be 6 n + 2 for a whole n of at least 1, such as "
            f"{lower} or {lower + 6}"
        )
    layers.check_sizes(width=width)
    channels = image_shape("resnet", inputs)[2]
    output_size = layers.output_size("resnet", output)
    n = depth // 6
    blocks = tuple(
        (width * 2**stage, 2 if stage and not i else 1)
        for stage in range(3)
        for i in range(n)
    )

    def init(key):
        keys = iter(jax.random.split(key, depth))

        def conv(inputs, features):
            he_normal = jax.nn.initializers.he_normal()
            shape = (*KERNEL, inputs, features)
            return {"kernel": he_normal(next(keys), shape, jnp.float32)}

        norm, stats = batch_norm_init(width)
        params, model_state = (
            {"conv": conv(channels, width), "norm": norm},
            {"norm": stats},
        )
        before = width
        for i, (features, _) in enumerate(blocks):
            made = {
                "conv_0": conv(before, features),
                "conv_1": conv(features, features),
            }
            norms = {name: batch_norm_init(features) for name in ("norm_0", "norm_1")}
            params[f"block_{i}"] = made | {k: norm for k, (norm, _) in norms.items()}
            model_state[f"block_{i}"] = {k: stats for k, (_, stats) in norms.items()}
            before = features
        params["output"] = layers.dense_init(next(keys), before, output_size)
        return params, model_state

    def normalized(params, stats, name, x, stride, train):
        x = convolve(params[f"conv{name}"], x, dtype, stride, PADDING)
        norm = f"norm{name}"
        return batch_norm(params[norm], stats[norm], x, norm_momentum, train)

    def forward(params, model_state, x, key, train):
        new = {}
        x, new["norm"] = normalized(params, model_state, "", x, 1, train)
        x = jax.nn.relu(x)
        for i, (features, stride) in enumerate(blocks):
            block = f"block_{i}"
            own, stats = params[block], model_state[block]
            y, first = normalized(own, stats, "_0", x, stride, train)
            y, second = normalized(own, stats, "_1", jax.nn.relu(y), 1, train)
            x = jax.nn.relu(y + _shortcut(x, features, stride))
            new[block] = {"norm_0": first, "norm_1": second}
        return layers.dense(params["output"], x.mean(axis=(1, 2)), dtype), new

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(blocks, output_size, norm_momentum, dtype),
        nnx=lambda rngs: Nnx(channels, blocks, output_size, norm_momentum, dtype, rngs),
    )


def _shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """`x` as it is added to the output of a block."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
