"""Multilayer perceptron."""

import math
from collections.abc import Callable, Sequence

import jax
from flax import linen, nnx

from runner.models import model as layers
from runner.models.model import Model


class Linen(linen.Module):
    sizes: Sequence[int]
    activation: Callable
    dropout: float

    @linen.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), -1)
        for i, size in enumerate(self.sizes[:-1]):
            x = self.activation(linen.Dense(size, name=f"dense_{i}")(x))
            x = linen.Dropout(self.dropout, deterministic=not train)(x)
        return linen.Dense(self.sizes[-1], name="output")(x)


class Nnx(nnx.Module):
    def __init__(self, input_size, sizes, activation, dropout, rngs: nnx.Rngs):
        widths = [input_size, *sizes]
        self.hidden_layers = len(sizes) - 1
        for i in range(self.hidden_layers):
            layer = nnx.Linear(widths[i], widths[i + 1], rngs=rngs)
            setattr(self, f"dense_{i}", layer)
        self.output = nnx.Linear(widths[-2], widths[-1], rngs=rngs)
        self.activation = activation
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for i in range(self.hidden_layers):
            x = self.dropout(self.activation(getattr(self, f"dense_{i}")(x)))
        return self.output(x)


def mlp(
    *,
    input_shape: tuple[int, ...],
    output_size: int,
    hidden_sizes: Sequence[int],
    activation: str,
    dropout: float,
) -> Model:
    """Dense layers with activation and dropout: [B, ...] -> [B, output_size].

    Args:
      input_shape: that of one example, which is flattened.
      output_size: the size that the loss needs.
      hidden_sizes: widths of the hidden layers; may be empty.
      activation: a function of `jax.nn`, by name.
      dropout: fraction of the hidden units zeroed in training.
    """
    layers.check_sizes(hidden_sizes=hidden_sizes)
    layers.check_rate(dropout)
    act = layers.activation(activation)
    sizes = (*hidden_sizes, output_size)
    widths = (math.prod(input_shape), *sizes)
    names = [*(f"dense_{i}" for i in range(len(hidden_sizes))), "output"]

    def init(key):
        keys = jax.random.split(key, len(names))
        shapes = zip(names, keys, widths, sizes, strict=False)
        return {n: layers.dense_init(k, i, o) for n, k, i, o in shapes}, {}

    def forward(params, model_state, x, key, train):
        x = x.reshape(len(x), -1)
        for i, name in enumerate(names[:-1]):
            x = act(layers.dense(params[name], x))
            x = layers.dropout(x, dropout, jax.random.fold_in(key, i), train)
        return layers.dense(params["output"], x), model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(sizes, act, dropout),
        nnx=lambda rngs: Nnx(widths[0], sizes, act, dropout, rngs),
    )
