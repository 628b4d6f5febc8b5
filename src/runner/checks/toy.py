"""A small model for any task, in all three forms: what checks drive a pipeline with.

Each start traces it several times. So it has few operations, those of `jax.lax`, and
its forms share them: what they differ in is how a pipeline has to handle them.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

from runner.core.optimizer_spec import OptimizerSpec
from runner.data.dataset import Dataset
from runner.models.model import Model
from runner.tasks.task import Task, is_shape

READ = 32  # of each array of an example, at most this many numbers
PROJECTED, HIDDEN, OUTPUTS = 4, 5, 16
DROPOUT, MOMENTUM, EPSILON = 0.25, 0.9, 1e-5
BATCHES, BATCH_SIZE = 8, 8
LARGEST = 2**14  # numbers of an example's outputs; a task that wants more is replaced


def on_toy(wanted: OptimizerSpec) -> OptimizerSpec:
    """`wanted`, whose patterns match the toy's parameters instead of the run's.

    Each group has a kernel and a bias of its own; the mask exempts the first kernel.
    """
    of_group = {group.name: f"^groups/{group.name}/" for group in wanted.groups}
    return wanted._replace(
        groups=tuple(g._replace(pattern=of_group[g.name], ndim=None)
                     for g in wanted.groups),
        exempt=("^dense/",) if wanted.exempt else (),
    )  # fmt: skip


def toy_model(output: Any, dtype: str, groups: Sequence[str] = ()) -> Model:
    """Dense, BatchNorm, tanh, dropout and dense: any inputs -> the shapes in `output`.

    Its parameters, about a hundred, don't depend on the task: large outputs repeat the
    same few numbers.

    Args:
      output: the `Task.output` that it has to fit.
      dtype: what layers compute in; parameters and statistics are float32.
      groups: the names of groups of parameters, for each of which it has a layer more.
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
        return initial_values(jax.random.key_data(key)[-1], jnp, groups)

    def forward(params, model_state, inputs, key, train):
        norm, noise = model_state["norm"], key if train else None
        z, norm = _outputs(params, norm, projected(inputs), noise, train, dtype)
        return shaped(z), {"norm": norm}

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(dtype, shaped, tuple(groups)),
        nnx=lambda rngs: Nnx(dtype, shaped, groups, rngs),
    )


def initial_values(
    seed: Any, numpy: Any, groups: Sequence[str] = ()
) -> tuple[dict, dict]:
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
    if groups:
        params["groups"] = {
            name: {
                "kernel": numpy.roll(drawn, i)[: HIDDEN**2].reshape(HIDDEN, HIDDEN),
                "bias": numpy.roll(drawn, i)[:HIDDEN],
            }
            for i, name in enumerate(sorted(groups))
        }
    zeros, ones = (f(HIDDEN, np.float32) for f in (numpy.zeros, numpy.ones))
    return params, {"norm": {"mean": zeros, "var": ones}}


class Linen(linen.Module):
    dtype: str
    shaped: Any
    groups: tuple[str, ...]

    @linen.compact
    def __call__(self, inputs, train: bool):
        params, stats = _zeros(self.groups)
        params = {k: self.param(k, lambda _, v=v: v) for k, v in params.items()}
        norm = self.variable("batch_stats", "norm", lambda: stats["norm"])
        noise = self.make_rng("dropout") if train else None
        z, new = _outputs(
            params, norm.value, projected(inputs), noise, train, self.dtype
        )
        if train:
            norm.value = new
        return self.shaped(z)


class Nnx(nnx.Module):
    def __init__(self, dtype, shaped, groups: Sequence[str], rngs: nnx.Rngs):
        # Its own initial values are never used.
        params, stats = _zeros(groups)
        for name, values in params.items():
            setattr(self, name, _variables(nnx.Param, values))
        self.norm = _variables(nnx.BatchStat, stats["norm"])
        self.dtype, self.shaped, self.rngs = dtype, shaped, rngs
        self.deterministic = self.use_running_average = False

    def __call__(self, inputs):
        params = nnx.to_pure_dict(nnx.state(self, nnx.Param))
        stats = nnx.to_pure_dict(nnx.state(self.norm))
        updates = not self.use_running_average
        noise = None if self.deterministic else self.rngs.dropout()
        z, new = _outputs(params, stats, projected(inputs), noise, updates, self.dtype)
        if updates:
            nnx.update(self.norm, new)
        return self.shaped(z)


def _variables(kind: type[nnx.Variable], values: dict) -> nnx.Dict:
    return nnx.Dict(
        {
            name: _variables(kind, value) if isinstance(value, dict) else kind(value)
            for name, value in values.items()
        }
    )


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


def _outputs(params, stats, x_BxP, noise, updates, dtype):
    """Outputs [B, OUTPUTS], and BatchNorm's statistics after them.

    Args:
      params: of both layers.
      stats: the statistics before.
      x_BxP: projected inputs.
      noise: a PRNG key for dropout, or None.
      updates: whether BatchNorm takes the batch's statistics, and updates its own.
      dtype: what layers compute in.
    """
    x = lax.dot(x_BxP.astype(dtype), params["dense"]["kernel"].astype(dtype))
    x, stats = _batch_norm(stats, x, updates)
    x = lax.tanh(x)
    for layer in params.get("groups", {}).values():
        x = lax.tanh(_dense(layer, x, dtype))
    if noise is not None:
        kept = jax.random.bits(noise, x.shape) < np.uint32((1 - DROPOUT) * 2**32)
        scaled = lax.mul(x, np.full(x.shape, 1 / (1 - DROPOUT), x.dtype))
        x = lax.select(kept, scaled, lax.full_like(x, 0))
    return _dense(params["output"], x, dtype), stats


def _dense(layer: Any, x: jax.Array, dtype: str) -> jax.Array:
    kernel, bias = (layer[name].astype(dtype) for name in ("kernel", "bias"))
    return lax.add(
        lax.dot(x, kernel), lax.broadcast_in_dim(bias, (len(x), len(bias)), (1,))
    )


def _batch_norm(stats: Any, x: jax.Array, updates: bool) -> tuple[jax.Array, Any]:
    """Ioffe and Szegedy, 2015, without a scale and a bias."""
    dtype, x = x.dtype, x.astype(jnp.float32)
    mean, var = stats["mean"], stats["var"]
    if updates:
        size = np.float32(len(x))
        mean = lax.div(lax.reduce_sum(x, (0,)), size)
        away = lax.sub(x, lax.broadcast_in_dim(mean, x.shape, (1,)))
        var = lax.div(lax.reduce_sum(lax.square(away), (0,)), size)
        batch = {"mean": mean, "var": var}
        keep, take = np.float32(MOMENTUM), np.float32(1 - MOMENTUM)
        stats = jax.tree.map(lambda old, new: keep * old + take * new, stats, batch)
    scale = lax.rsqrt(lax.add(var, np.float32(EPSILON)))
    mean, scale = (lax.broadcast_in_dim(v, x.shape, (1,)) for v in (mean, scale))
    return lax.mul(lax.sub(x, mean), scale).astype(dtype), stats


def _zeros(groups: Sequence[str]) -> tuple[dict, dict]:
    return jax.tree.map(jnp.zeros_like, initial_values(np.uint32(0), np, groups))
