"""A regression on columns of a NumPy file, by a model with two inputs."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from runner.data.dataset import Dataset, MemorySplit
from runner.models.model import Model, dense, dense_init
from runner.tasks.metric import average


def numpy_file(*, path: str, num_validation: int, batch_size: int) -> Dataset:
    """The arrays of an .npz file, the last `num_validation` rows for validation."""
    with np.load(Path(path)) as file:
        columns = {name: file[name].astype(np.float32) for name in file.files}
    cut = len(next(iter(columns.values()))) - num_validation
    return Dataset(
        name=path,
        splits={
            "train": MemorySplit({k: x[:cut] for k, x in columns.items()}),
            "validation": MemorySplit({k: x[cut:] for k, x in columns.items()}),
        },
        classes={},
        batch_size=batch_size,
        mode="device",
    )


class Linen(linen.Module):
    width: int
    size: int
    dtype: str

    @linen.compact
    def __call__(self, x, train):
        dense = functools.partial(linen.Dense, dtype=self.dtype)
        hidden = sum(dense(self.width, name=name)(x[name]) for name in sorted(x))
        return dense(self.size, name="output")(jnp.tanh(hidden))


class Nnx(nnx.Module):
    def __init__(self, sizes, width, size, dtype, rngs):
        self.names = sorted(sizes)
        for name in self.names:
            layer = nnx.Linear(sizes[name], width, dtype=dtype, rngs=rngs)
            setattr(self, name, layer)
        self.output = nnx.Linear(width, size, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        hidden = sum(getattr(self, name)(x[name]) for name in self.names)
        return self.output(jnp.tanh(hidden))


def both(*, inputs, output, dtype, width):
    """A model of two inputs: one layer for each, and one for both."""
    sizes, (size,) = {name: x.shape[0] for name, x in inputs.items()}, output

    def init(key):
        widths = {name: (sizes[name], width) for name in sorted(sizes)}
        widths["output"] = width, size
        keys = jax.random.split(key, len(widths))
        pairs = zip(widths.items(), keys, strict=True)
        return {name: dense_init(key, *io) for (name, io), key in pairs}, {}

    def forward(params, model_state, x, key, train):
        hidden = sum(dense(params[name], x[name], dtype) for name in sorted(x))
        return dense(params["output"], jnp.tanh(hidden), dtype), model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(width, size, dtype),
        nnx=lambda rngs: Nnx(sizes, width, size, dtype, rngs),
    )


def within(*, target, tolerance):
    """A metric of one's own: the share of predictions that are close enough."""

    def close(outputs, batch):
        error = jnp.abs(outputs - batch[target].reshape(outputs.shape))
        return (error < tolerance).all(axis=-1)

    return average(close, better="max")
