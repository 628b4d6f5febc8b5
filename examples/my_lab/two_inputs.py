"""A regression on columns of a NumPy file, by a model with two inputs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

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


def both(*, inputs, output, width):
    """A model of two inputs, in pure JAX: one layer for each, and one for both."""
    (a, b), (size,) = inputs, output

    def init(key):
        keys = jax.random.split(key, 3)
        layers = {
            a: dense_init(keys[0], inputs[a].shape[0], width),
            b: dense_init(keys[1], inputs[b].shape[0], width),
            "output": dense_init(keys[2], width, size),
        }
        return layers, {}

    def forward(params, model_state, x, key, train):
        hidden = sum(dense(params[name], x[name], "float32") for name in (a, b))
        return dense(params["output"], jnp.tanh(hidden), "float32"), model_state

    return Model(init=init, jax=forward)


def within(*, target, tolerance):
    """A metric of one's own: the share of predictions that are close enough."""

    def close(outputs, batch):
        error = jnp.abs(outputs - batch[target].reshape(outputs.shape))
        return (error < tolerance).all(axis=-1)

    return average(close, better="max")
