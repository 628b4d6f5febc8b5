"""A small model for any task, in all three forms: what checks drive a pipeline with.

Each start traces it several times, so it has few operations, and those of `jax.lax`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

from runner.data.dataset import Dataset
from runner.models import model as layers
from runner.models.model import Model
from runner.tasks.task import Task, is_shape

READ = 32  # of each array of an example, at most this many numbers
PROJECTED, HIDDEN, OUTPUTS = 4, 5, 16
DROPOUT, MOMENTUM, EPSILON = 0.25, 0.9, 1e-5
BATCHES, BATCH_SIZE = 8, 8
LARGEST = 2**14  # numbers of an example's outputs; a task that wants more is replaced


def toy_model(output: Any, dtype: str) -> Model:
    """Dense, BatchNorm, tanh, dropout and dense: any inputs -> the shapes in `output`.

    Its parameters, about a hundred, don't depend on the task: large outputs repeat the
    same few numbers.

    Args:
      output: the `Task.output` that it has to fit.
      dtype: what layers compute in; parameters and statistics are float32.
    """
    shapes, structure = jax.tree.flatten(output, is_leaf=is_shape)

    def shaped(z_BxO):
        found, start = [], 0
        for shape in shapes:
            end = start + math.prod(shape)
            repeats = -(-end // OUTPUTS)
            repeated = jnp.tile(z_BxO, (1, repeats)) if repeats > 1 else z_BxO
            part = lax.slice(repeated, (0, start), (len(z_BxO), end))
            found.append(lax.reshape(part, (len(z_BxO), *shape)))
            start = end % OUTPUTS
        return jax.tree.unflatten(structure, found)

    def init(key):
        return initial_values(jax.random.key_data(key)[-1], jnp)

    def forward(params, model_state, inputs, key, train):
        kernel = params["dense"]["kernel"].astype(dtype)
        x = lax.dot(projected(inputs).astype(dtype), kernel)
        x, norm = _batch_norm(model_state["norm"], x, train)
        x = layers.dropout(lax.tanh(x), DROPOUT, key, train)
        return shaped(layers.dense(params["output"], x, dtype)), {"norm": norm}

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(dtype, shaped),
        nnx=lambda rngs: Nnx(dtype, shaped, rngs),
    )


def initial_values(seed: Any, numpy: Any) -> tuple[dict, dict]:
    """Parameters and statistics, from the last word of a key; by NumPy or by JAX."""
    at = np.arange((PROJECTED + OUTPUTS) * HIDDEN, dtype=np.float32)
    drawn = numpy.sin(1.3 * at + seed.astype(np.float32))
    first = PROJECTED * HIDDEN
    params = {
        "dense": {"kernel": drawn[:first].reshape(PROJECTED, HIDDEN)},
        "output": {
            "kernel": drawn[first:].reshape(HIDDEN, OUTPUTS),
            "bias": drawn[:OUTPUTS],
        },
    }
    zeros, ones = (f(HIDDEN, np.float32) for f in (numpy.zeros, numpy.ones))
    return params, {"norm": {"mean": zeros, "var": ones}}


class Linen(linen.Module):
    dtype: str
    shaped: Any

    @linen.compact
    def __call__(self, inputs, train: bool):
        x = linen.Dense(HIDDEN, use_bias=False, dtype=self.dtype, name="dense")(
            projected(inputs)
        )
        x = linen.BatchNorm(
            use_running_average=not train,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            use_scale=False,
            use_bias=False,
            dtype=self.dtype,
            name="norm",
        )(x)
        x = linen.Dropout(DROPOUT, deterministic=not train)(lax.tanh(x))
        return self.shaped(linen.Dense(OUTPUTS, dtype=self.dtype, name="output")(x))


class Nnx(nnx.Module):
    def __init__(self, dtype, shaped, rngs: nnx.Rngs):
        # Its own initial values are never used, and zeros are quickly traced.
        more = {"kernel_init": zeros, "dtype": dtype, "rngs": rngs}
        self.dense = nnx.Linear(PROJECTED, HIDDEN, use_bias=False, **more)
        # Without a dtype, as in runner.models.cnn.
        self.norm = nnx.BatchNorm(
            HIDDEN, momentum=MOMENTUM, epsilon=EPSILON, use_scale=False, use_bias=False,
            rngs=rngs,
        )  # fmt: skip
        self.dropout = nnx.Dropout(DROPOUT, rngs=rngs)
        self.output = nnx.Linear(HIDDEN, OUTPUTS, **more)
        self.dtype, self.shaped = dtype, shaped

    def __call__(self, inputs):
        x = self.norm(self.dense(projected(inputs))).astype(self.dtype)
        return self.shaped(self.output(self.dropout(lax.tanh(x))))


zeros = nnx.initializers.zeros_init()


def toy_task(task: Task) -> Task:
    """`task`, or one of the same inputs if its outputs are unknown or too many."""
    shapes = jax.tree.leaves(task.output, is_leaf=is_shape)
    if shapes and sum(map(math.prod, shapes)) <= LARGEST:
        return task

    def loss(outputs, batch):
        return jnp.square(outputs.astype(jnp.float32) - 1).mean(axis=-1), 1.0

    return Task(task.inputs, (PROJECTED,), loss)


def toy_rows(dataset: Dataset) -> dict[str, np.ndarray]:
    """BATCHES * BATCH_SIZE examples from all over the training split."""
    at = np.linspace(0, len(dataset.train) - 1, BATCHES * BATCH_SIZE)
    return dataset.train.rows(at.astype(int))


def toy_example(dataset: Dataset) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch as a toy's task gets it."""
    return {
        name: jax.ShapeDtypeStruct((BATCH_SIZE, *feature.shape), feature.dtype)
        for name, feature in dataset.features.items()
    }


def projected(inputs: Any) -> jax.Array:
    """Some numbers of any inputs, mixed: [B, PROJECTED], whatever their sizes are."""
    total: Any = None
    for i, leaf in enumerate(jax.tree.leaves(inputs)):
        flat = lax.reshape(leaf, (len(leaf), leaf.size // len(leaf)))
        flat = lax.slice(flat, (0, 0), flat.shape, (1, -(-flat.shape[1] // READ)))
        at = np.arange(flat.shape[1] * PROJECTED).reshape(-1, PROJECTED)
        pattern = np.sin(1.7 * at + i).astype(np.float32)
        mixed = lax.dot(lax.sin(flat.astype(jnp.float32)), pattern)
        total = mixed if total is None else total + mixed
    return total


def _batch_norm(stats: Any, x: jax.Array, train: bool):
    """In flax's order of operations: see `runner.models.cnn`."""
    dtype, x = x.dtype, x.astype(jnp.float32)
    mean, var = stats["mean"], stats["var"]
    if train:
        mean, square = x.mean(axis=0), lax.square(x).mean(axis=0)
        var = lax.max(np.float32(0), square - lax.square(mean))
        stats = {
            "mean": MOMENTUM * stats["mean"] + (1 - MOMENTUM) * mean,
            "var": MOMENTUM * stats["var"] + (1 - MOMENTUM) * var,
        }
    normalized = (x - mean[None]) * lax.rsqrt(var[None] + EPSILON)
    return normalized.astype(dtype), stats
