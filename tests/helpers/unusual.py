"""Data, models and tasks as few have them, and all of them honest."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

from runner.data.dataset import Dataset, MemorySplit
from runner.models.model import Model
from runner.tasks.task import Task, columns

CLASSES = 4


def data(*, batch_size: int, kind: str) -> Dataset:
    """Points in classes, some of which may be separated, missing, huge, or all zero."""

    def split(size: int, seed: int) -> MemorySplit:
        x = np.random.default_rng(seed).normal(size=(size, 8)).astype(np.float32)
        label = (x[:, 0] > 0) + 2 * (x[:, 1] > 0)
        label = {"missing": np.minimum(label, 2), "one": 0 * label}.get(kind, label)
        at, scale = np.arange(size), {"zero": 0, "huge": 1e6, "tiny": 1e-20}
        return MemorySplit({
            "input": x * np.float32(scale.get(kind, 1)),
            "label": label.astype(np.int32),
            "none": 0 * x[:, 0],
            "some": np.where(at % 5, 1, np.nan).astype(np.float32),
        })  # fmt: skip

    return Dataset(
        name="unusual",
        splits={"train": split(192, 1), "validation": split(70, 2)},
        classes={"label": CLASSES},
        batch_size=batch_size,
        mode="device",
        transforms=[],
    )


def _task(values):
    """A task whose loss is `values(outputs, batch, cross entropies)`."""

    def task(*, features, inputs, labels) -> Task:
        def loss(outputs, batch):
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels
            given = outputs, batch, cross_entropy(outputs, batch[labels])
            return values(*given, labels)

        return Task(columns(inputs, features), (CLASSES,), loss)

    return task


@_task
def weightless(outputs, batch, entropies, labels):
    return entropies, batch["none"]


@_task
def nan_where_missing(outputs, batch, entropies, labels):
    known = jnp.isfinite(batch["some"])
    return jnp.where(known, entropies, jnp.nan), known.astype(jnp.float32)


@_task
def hinge(outputs, batch, entropies, labels):
    """Kinks, and exactly zero once all is right."""
    right = jnp.take_along_axis(outputs, batch[labels][:, None], axis=1)
    margins = jnp.maximum(0, 1 + outputs - right)
    others = 1 - jax.nn.one_hot(batch[labels], CLASSES)
    return (margins * others).max(axis=-1), 1.0


@_task
def constant(outputs, batch, entropies, labels):
    return jnp.zeros_like(entropies), 1.0


def tied(*, inputs, output) -> Model:
    """One matrix used twice, and an array that nothing uses."""

    def init(key):
        both = 0.3 * jax.random.normal(key, (8, 8))
        zeros = jnp.zeros((8, CLASSES))
        return {"both": both, "head": zeros, "unused": jnp.ones(3)}, {}

    def forward(params, model_state, x, key, train):
        x = jnp.tanh(jnp.tanh(x @ params["both"]) @ params["both"].T)
        return x @ params["head"], model_state

    return Model(init=init, jax=forward)


def embedding(*, inputs, output) -> Model:
    """A table of which each batch reads a few rows."""

    def init(key):
        table, head = jax.random.split(key)
        return {
            "table": jax.random.normal(table, (200, 8)),
            "head": 0.3 * jax.random.normal(head, (8, CLASSES)),
        }, {}

    def forward(params, model_state, x, key, train):
        rows = jnp.clip(20 * x[:, :3] + 100, 0, 199).astype(jnp.int32)
        return params["table"][rows].mean(axis=1) @ params["head"], model_state

    return Model(init=init, jax=forward)


def straight_through(*, inputs, output) -> Model:
    """Signs forwards, and the identity backwards."""

    def init(key):
        first, second = jax.random.split(key)
        return {
            "first": 0.3 * jax.random.normal(first, (8, 16)),
            "second": 0.3 * jax.random.normal(second, (16, CLASSES)),
        }, {}

    def forward(params, model_state, x, key, train):
        x = x @ params["first"]
        x = x + jax.lax.stop_gradient(jnp.sign(x) - x)
        return x @ params["second"], model_state

    return Model(init=init, jax=forward)


class Remat(linen.Module):
    """No biases, and layers that are computed again for their gradients."""

    @linen.compact
    def __call__(self, x, train: bool):
        dense = partial(linen.remat(linen.Dense), use_bias=False)
        x = jax.scipy.special.erf(dense(16)(x))
        return dense(CLASSES)(linen.gelu(x, approximate=False))


def remat(*, inputs, output) -> Model:
    return Model(linen=Remat)


class Dropped(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.9, rngs=rngs)
        self.second = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(nnx.relu(self.norm(self.first(x)))))


def dropped(*, inputs, output) -> Model:
    return Model(nnx=Dropped)


class Held(nnx.Module):
    """Plain arrays among its attributes, and an output that is only looked at."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)
        self.second = nnx.Linear(16, CLASSES, rngs=rngs)
        self.projection = jax.random.normal(rngs.params(), (8, 8)) / 8
        self.shift = jnp.arange(16.0)[None]

    def __call__(self, x):
        x = jnp.tanh(self.first(x @ self.projection) + self.shift)
        with warnings.catch_warnings(action="ignore"):  # deprecated by flax
            self.sow(nnx.Intermediate, "hidden", x)
        return self.second(x)


def held(*, inputs, output) -> Model:
    return Model(nnx=Held)


def unusual(
    kind: str, *, batch: int = 16, model: str | None = None, task: str | None = None
) -> tuple[str, ...]:
    """Overrides that choose some of the above."""
    here = "_target_=helpers.unusual."
    given = ["~data", f"+data.{here}data", f"+data.batch_size={batch}",
             f"+data.kind={kind}", "model.hidden_sizes=[16]"]  # fmt: skip
    if model:
        mlp = ("hidden_sizes", "activation", "dropout")
        given[-1:] = [f"model.{here}{model}", *(f"~model.{name}" for name in mlp)]
    if task:
        given += ["~task", f"+task.{here}{task}", "+task.inputs=input",
                  "+task.labels=label"]  # fmt: skip
    return tuple(given)
