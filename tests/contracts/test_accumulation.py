"""Microbatches that count different numbers of tokens weigh as in one batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from helpers.at_night import each_in_one
from runner.core.mesh import device_mesh
from runner.core.optimizers import Optimizer
from runner.core.step import Values, train_step
from runner.core.step import init as init_step
from runner.data.dataset import Feature
from runner.frameworks import jax as jax_framework
from runner.frameworks import linen as linen_framework
from runner.frameworks import nnx as nnx_framework
from runner.models.model import Model
from runner.settings import MeshSettings
from runner.tasks.language_model import language_model
from runner.tasks.metrics import accuracy

LENGTH, SYMBOLS, WIDTH = 6, 7, 4
FEATURES = {
    "tokens": Feature((LENGTH,), "int32", SYMBOLS),
    "next": Feature((LENGTH,), "int32", SYMBOLS),
    "counts": Feature((LENGTH,), "float32"),
}


class Linen(linen.Module):
    @linen.compact
    def __call__(self, tokens, train):
        return linen.Dense(SYMBOLS)(linen.Embed(SYMBOLS, WIDTH)(tokens))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(SYMBOLS, WIDTH, rngs=rngs)
        self.dense = nnx.Linear(WIDTH, SYMBOLS, rngs=rngs)

    def __call__(self, tokens):
        return self.dense(self.embed(tokens))


def plain_init(key):
    one, other = jax.random.split(key)
    embed = jax.random.normal(one, (SYMBOLS, WIDTH))
    return {"embed": embed, "out": jax.random.normal(other, (WIDTH, SYMBOLS))}, {}


MODEL = Model(
    jax=lambda params, state, tokens, key, train: (
        params["embed"][tokens] @ params["out"],
        state,
    ),
    linen=Linen,
    nnx=Nnx,
)


SGD = Optimizer(
    lambda rate, _: optax.with_extra_args_support(optax.sgd(rate)), hyperparameters={}
)


def batch() -> dict:
    rng = np.random.default_rng(0)
    tokens, following = rng.integers(0, SYMBOLS, (2, 32, LENGTH)).astype(np.int32)
    # From one token to all: the parts of a batch count very different numbers.
    ends = 1 + np.arange(32)[:, None] % LENGTH * (np.arange(32)[:, None] % 4 == 0)
    counts = (np.arange(LENGTH) < ends).astype(np.float32)
    return {"tokens": tokens, "next": following, "counts": counts}


def pipelines() -> dict:
    task = language_model(
        features=FEATURES, inputs="tokens", labels="next", mask="counts",
        label_smoothing=0.0,
    )  # fmt: skip
    task = task._replace(metrics={"accuracy": accuracy(labels="next")})
    example = jax.eval_shape(lambda: batch())
    plain = MODEL._replace(init=plain_init, linen=None, nnx=None)
    return {
        "jax": (jax_framework.pipeline(plain, task, SGD), task),
        "linen": (linen_framework.pipeline(MODEL, task, SGD, example), task),
        "nnx": (nnx_framework.pipeline(MODEL, task, SGD), task),
    }


@pytest.mark.parametrize(
    ("framework", "devices"), each_in_one(["jax", "linen", "nnx"], [1, 8])
)
def test_they_equal_the_whole_batch(framework, devices):
    pipeline, task = pipelines()[framework]
    mesh = device_mesh(MeshSettings(devices, 1, 1, 1, []), 32, 1)
    values = Values(jax.random.key(0), {}, np.float32(0))
    placed = jax.device_put(batch(), mesh.batches.update(spec=mesh.batches.spec[1:]))
    found = []
    first = init_step(pipeline, False, SGD)(jax.random.key(1), 0.1, {})
    for microbatches in (1, 4):
        step = jax.jit(train_step(pipeline, task, (), microbatches))
        carry, row = step(
            first, placed, jnp.int32(0), jnp.float32(0.1), jnp.float32(jnp.inf), values,
        )  # fmt: skip
        found.append((row, carry.state.params))
    (whole, params), (parts, other) = found
    for name in ("train/loss", "train/accuracy", "train/grad_norm"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, params, other)
    # A mean of the parts' means is something else.
    means = []
    gradients = jax.jit(pipeline.gradients)
    for i in range(4):
        one = jax.tree.map(lambda x, i=i: x.reshape(-1, 4, *x.shape[1:])[:, i], batch())
        total, *_ = gradients(first.state, one, values.key)
        means.append(float(total.loss / total.weight))
    assert abs(np.mean(means) / float(whole["train/loss"]) - 1) > 1e-3
