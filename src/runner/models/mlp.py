"""Multilayer perceptron."""

from collections.abc import Callable, Sequence

import jax
from flax import linen, nnx

from runner.data.dataset import Feature
from runner.models import model as layers
from runner.models.model import Model


class Linen(linen.Module):
    sizes: Sequence[int]
    activation: Callable
    dropout: float
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), -1)
        for i, size in enumerate(self.sizes[:-1]):
            dense = linen.Dense(size, dtype=self.dtype, name=f"dense_{i}")
            x = self.activation(dense(x))
            x = linen.Dropout(self.dropout, deterministic=not train)(x)
        return linen.Dense(self.sizes[-1], dtype=self.dtype, name="output")(x)


class Nnx(nnx.Module):
    def __init__(self, input_size, sizes, activation, dropout, dtype, rngs: nnx.Rngs):
        widths = [input_size, *sizes]
        self.hidden_layers = len(sizes) - 1
        for i in range(self.hidden_layers):
            layer = nnx.Linear(widths[i], widths[i + 1], dtype=dtype, rngs=rngs)
            setattr(self, f"dense_{i}", layer)
        self.output = nnx.Linear(widths[-2], widths[-1], dtype=dtype, rngs=rngs)
        self.activation = activation
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for i in range(self.hidden_layers):
            x = self.dropout(self.activation(getattr(self, f"dense_{i}")(x)))
        return self.output(x)


def mlp(
    *,
    inputs: Feature,
    output: tuple[int, ...],
    dtype: str,
    hidden_sizes: Sequence[int],
    activation: str,
    dropout: float,
) -> Model:
    """Dense layers with activation and dropout: [B, ...] -> [B, output_size].

    Args:
      inputs: the feature that the model gets; it is flattened.
      output: the shape that the task needs, of one dimension.
      dtype: what layers compute in; parameters are float32.
      hidden_sizes: widths of the hidden layers; may be empty.
      activation: a function of `jax.nn`, by name.
      dropout: fraction of the hidden units zeroed in training.
    """
    layers.check_sizes(hidden_sizes=hidden_sizes)
    layers.check_rates(dropout=dropout)
    act = layers.activation(activation)
    sizes = (*hidden_sizes, layers.output_size("mlp", output))
    widths = (layers.input_size("mlp", inputs), *sizes)
    names = [*(f"dense_{i}" for i in range(len(hidden_sizes))), "output"]

    def init(key):
        keys = jax.random.split(key, len(names))
        shapes = zip(names, keys, widths, sizes, strict=False)
        return {n: layers.dense_init(k, i, o) for n, k, i, o in shapes}, {}

    def forward(params, model_state, x, key, train):
        x = x.reshape(len(x), -1)
        for i, name in enumerate(names[:-1]):
            x = act(layers.dense(params[name], x, dtype))
            x = layers.dropout(x, dropout, jax.random.fold_in(key, i), train)
        return layers.dense(params["output"], x, dtype), model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(sizes, act, dropout, dtype),
        nnx=lambda rngs: Nnx(widths[0], sizes, act, dropout, dtype, rngs),
    )
