"""Convolutional network: any convolutions, then pools and dense layers, as listed.

With the lists in conf/model, DeepOBS' 2c2d and 3c3d (Schneider et al., 2019,
https://arxiv.org/abs/1903.05499).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.models import model as parts
from runner.models.convolution import Padding, convolve, image_shape
from runner.models.model import Model


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with a bias, and the activation.

    Attributes:
      features: its output channels.
      kernel_size: height and width of its kernel.
      stride: pixels from one position of the kernel to the next.
      padding: SAME: as many zeros around the image as give its size over `stride`,
        rounded up; VALID: none.
    """

    features: int
    kernel_size: int
    stride: int
    padding: Padding


@dataclasses.dataclass(frozen=True)
class Pool:
    """The largest or the mean value of each window.

    Attributes:
      kind: max or mean; padding counts in neither.
      size: height and width of a window.
      stride: pixels from one window to the next.
      padding: as of a convolution.
    """

    kind: Literal["max", "mean"]
    size: int
    stride: int
    padding: Padding


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer with a bias, of the flattened input, and the activation."""

    features: int


Layer = Conv | Pool | Dense


class Linen(linen.Module):
    layers: Sequence[tuple[str, Layer]]
    output_size: int
    activation: Callable
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        for name, layer in self.layers:
            match layer:
                case Conv(features, size, stride, padding):
                    x = linen.Conv(
                        features, (size, size), stride, padding, dtype=self.dtype,
                        name=name,
                    )(x)  # fmt: skip
                    x = self.activation(x)
                case Pool():
                    x = _pooled(linen, layer, x)
                case Dense(features):
                    dense = linen.Dense(features, dtype=self.dtype, name=name)
                    x = self.activation(dense(x.reshape(len(x), -1)))
        output = linen.Dense(self.output_size, dtype=self.dtype, name="output")
        return output(x.reshape(len(x), -1))


class Nnx(nnx.Module):
    def __init__(
        self, layers, shapes, output_size, activation, dtype, rngs: nnx.Rngs
    ):  # fmt: skip
        for (name, layer), shape in zip(layers, shapes, strict=False):
            match layer:
                case Conv(features, size, stride, padding):
                    window = (size, size)
                    conv = nnx.Conv(
                        shape[-1], features, window, stride, padding=padding,
                        dtype=dtype, rngs=rngs,
                    )  # fmt: skip
                    setattr(self, name, conv)
                case Dense(features):
                    size = math.prod(shape)
                    dense = nnx.Linear(size, features, dtype=dtype, rngs=rngs)
                    setattr(self, name, dense)
        size = math.prod(shapes[-1])
        self.output = nnx.Linear(size, output_size, dtype=dtype, rngs=rngs)
        self.layers, self.activation = layers, activation

    def __call__(self, x):
        for name, layer in self.layers:
            match layer:
                case Conv():
                    x = self.activation(getattr(self, name)(x))
                case Pool():
                    x = _pooled(nnx, layer, x)
                case Dense():
                    x = self.activation(getattr(self, name)(x.reshape(len(x), -1)))
        return self.output(x.reshape(len(x), -1))


def _pooled(flax, pool: Pool, x):
    """By `linen` or `nnx`, whose functions are the same."""
    window, strides = (pool.size, pool.size), (pool.stride, pool.stride)
    if pool.kind == "max":
        return flax.max_pool(x, window, strides, pool.padding)
    return flax.avg_pool(x, window, strides, pool.padding, count_include_pad=False)


def convnet(
    *,
    inputs: Feature,
    output: tuple[int, ...],
    dtype: str,
    layers: Sequence,
    activation: str,
    conv_init: Callable,
    dense_init: Callable,
    bias: float,
) -> Model:
    """Images [B, height, width, channels] -> [B, output_size].

    Args:
      inputs: an image [height, width, channels].
      output: the shape that the task needs, of one dimension.
      dtype: what layers compute in; parameters are float32.
      layers: each a `Conv`, a `Pool` or a `Dense`, in turn; a dense layer to the output
        follows them.
      activation: a function of `jax.nn`, by name.
      conv_init, dense_init: initial kernels, by functions of `jax.nn.initializers`.
      bias: the initial value of all biases.

    Raises:
      ConfigError: a layer is impossible, or no image is left for it.
    """
    shapes = _shapes(layers, image_shape("convnet", inputs))
    output_size = parts.output_size("convnet", output)
    act = parts.activation(activation)
    _check_init(conv_init=conv_init, dense_init=dense_init)
    named = _named(layers)

    def init(key):
        keys = jax.random.split(key, len(named) + 1)
        params = {}
        for (name, layer), shape, own in zip(named, shapes, keys, strict=False):
            match layer:
                case Conv(out, size):
                    params[name] = new(conv_init, own, (size, size, shape[-1], out))
                case Dense(out):
                    params[name] = new(dense_init, own, (math.prod(shape), out))
        shape = (math.prod(shapes[-1]), output_size)
        return params | {"output": new(dense_init, keys[-1], shape)}, {}

    def new(kernel_init, key, shape):
        biases = jnp.full(shape[-1], bias, jnp.float32)
        return {"kernel": kernel_init(key, shape, jnp.float32), "bias": biases}

    def forward(params, model_state, x, key, train):
        for name, layer in named:
            match layer:
                case Conv(_, _, stride, padding):
                    x = act(convolve(params[name], x, dtype, stride, padding))
                case Pool():
                    x = _pool(layer, x)
                case Dense():
                    x = act(parts.dense(params[name], x.reshape(len(x), -1), dtype))
        return parts.dense(params["output"], x.reshape(len(x), -1), dtype), model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(named, output_size, act, dtype),
        nnx=lambda rngs: Nnx(named, shapes, output_size, act, dtype, rngs),
    )


def _pool(pool: Pool, x: jax.Array) -> jax.Array:
    """In flax's order of operations."""

    def reduced(x, start, reduce):
        window = (1, pool.size, pool.size, 1), (1, pool.stride, pool.stride, 1)
        first = np.array(start, x.dtype)
        return jax.lax.reduce_window(x, first, reduce, *window, pool.padding)

    if pool.kind == "max":
        return reduced(x, -np.inf, jax.lax.max)
    is_inside = jnp.ones((1, *x.shape[1:3], 1))
    return reduced(x, 0, jax.lax.add) / reduced(is_inside, 0, jax.lax.add)


def _named(layers: Sequence[Layer]) -> tuple[tuple[str, Layer], ...]:
    """With the name of each: its kind, and how many of them come before."""
    kinds = [type(layer).__name__.lower() for layer in layers]
    names = [f"{kind}_{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
    return tuple(zip(names, layers, strict=True))


def _shapes(layers: Sequence, image: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Of the input of each layer and of the output's.

    Raises:
      ConfigError: a layer is impossible, or no image is left for it.
    """
    shapes = [image]
    for i, layer in enumerate(layers):
        where = f"model.layers[{i}]"
        if not isinstance(layer, Layer):
            raise ConfigError(
                f"{where}={layer} must be a Conv, a Pool or a Dense of "
                "runner.models.convnet, named as its _target_"
            )
        for key, size in dataclasses.asdict(layer).items():
            if isinstance(size, int) and size < 1:
                raise ConfigError(f"{where}.{key}={size} must be at least 1")
        shapes.append(_shape_after(layer, where, shapes[-1]))
    return tuple(shapes)


def _shape_after(layer: Layer, where: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Dense):
        return (layer.features,)
    kind = type(layer).__name__
    if len(shape) != 3:
        raise ConfigError(f"{where}: a {kind} needs an image; it can't follow a Dense")
    key, size = "size", layer.size if isinstance(layer, Pool) else layer.kernel_size
    if isinstance(layer, Conv):
        key = "kernel_size"
    if layer.padding == "VALID" and min(shape[:2]) < size:
        raise ConfigError(
            f"{where}.{key}={size} must be at most the {shape[0]} x {shape[1]} pixels "
            "that reach this layer, unless its padding is SAME"
        )
    lost = size - 1 if layer.padding == "VALID" else 0
    height, width = (-(-(side - lost) // layer.stride) for side in shape[:2])
    features = layer.features if isinstance(layer, Conv) else shape[2]
    return (height, width, features)


def _check_init(**given: Callable) -> None:
    """Refuse functions that aren't initializers: some show it only when called."""
    for key, function in given.items():
        try:
            jax.eval_shape(lambda f=function: f(jax.random.key(0), (2, 3), jnp.float32))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"model.{key} must be an initializer, such as "
                f"jax.nn.initializers.glorot_normal: {error}"
            ) from error
