"""Decoder-only transformer (Radford et al., 2019): tokens [B, T] -> logits [B, T, V].

Blocks of causal attention and MLP, each after a LayerNorm. Keys have no bias: it would
change no output, and Adam would scale up its gradient, which is nothing but rounding.
Dropout is that of the embeddings and of what each half of a block adds; attention's own
weights have none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

from runner.data.dataset import Feature
from runner.errors import ConfigError, did_you_mean
from runner.models import model as common
from runner.models.attention import attention
from runner.models.model import Model

EPSILON = 1e-5  # added to LayerNorm's variance; PyTorch's default
STD = 0.02  # of initial values
POSITIONS = ("learned", "rotary")


class Shape(NamedTuple):
    """The sizes and options that all forms share: see `transformer`."""

    vocabulary: int
    outputs: int
    length: int
    width: int
    heads: int
    layers: int
    activation: Callable
    positions: str
    tied: bool
    bias: bool
    dropout: float
    remat: bool
    dtype: str

    @property
    def rotary(self) -> bool:
        return self.positions == "rotary"

    @property
    def names(self) -> list[str]:
        return [f"block_{i}" for i in range(self.layers)]


class LinenBlock(linen.Module):
    shape: Shape
    train: bool

    @linen.compact
    def __call__(self, x):
        shape = self.shape

        def dense(name, size, bias=shape.bias):
            return linen.Dense(size, use_bias=bias, dtype=shape.dtype, name=name)

        def norm(name, x):
            made = linen.LayerNorm(epsilon=EPSILON, use_bias=shape.bias, name=name)
            return made(x).astype(shape.dtype)

        drop = linen.Dropout(shape.dropout, deterministic=not self.train)
        y = norm("norm_1", x)
        q, k, v = (
            dense(name, shape.width, shape.bias and name != "key")(y)
            for name in ("query", "key", "value")
        )
        x = x + drop(
            dense("out", shape.width)(attention(q, k, v, shape.heads, shape.rotary))
        )
        y = shape.activation(dense("up", 4 * shape.width)(norm("norm_2", x)))
        return x + drop(dense("down", shape.width)(y))


class Linen(linen.Module):
    shape: Shape

    @linen.compact
    def __call__(self, tokens, train: bool):
        shape = self.shape
        embed = linen.Embed(
            shape.vocabulary, shape.width, dtype=shape.dtype, name="tokens"
        )
        x = embed(tokens)
        if shape.positions == "learned":
            at = linen.Embed(
                shape.length, shape.width, dtype=shape.dtype, name="positions"
            )
            x = x + at(jnp.arange(tokens.shape[1])[None])
        x = linen.Dropout(shape.dropout, deterministic=not train)(x)
        block = linen.remat(LinenBlock) if shape.remat else LinenBlock
        for name in shape.names:
            x = block(shape, train, name=name)(x)
        x = linen.LayerNorm(epsilon=EPSILON, use_bias=shape.bias, name="norm")(x)
        x = x.astype(shape.dtype)
        if shape.tied:
            return embed.attend(x)
        out = linen.Dense(
            shape.outputs, use_bias=False, dtype=shape.dtype, name="output"
        )
        return out(x)


class NnxBlock(nnx.Module):
    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        dense = functools.partial(nnx.Linear, dtype=shape.dtype, rngs=rngs)
        width, bias = shape.width, shape.bias
        norm = functools.partial(
            nnx.LayerNorm, width, epsilon=EPSILON, use_bias=bias, rngs=rngs
        )
        self.norm_1, self.norm_2 = norm(), norm()
        self.query = dense(width, width, use_bias=bias)
        self.key = dense(width, width, use_bias=False)
        self.value = dense(width, width, use_bias=bias)
        self.out = dense(width, width, use_bias=bias)
        self.up = dense(width, 4 * width, use_bias=bias)
        self.down = dense(4 * width, width, use_bias=bias)
        self.dropout_1 = nnx.Dropout(shape.dropout, rngs=rngs)
        self.dropout_2 = nnx.Dropout(shape.dropout, rngs=rngs)
        self.shape = shape

    def __call__(self, x):
        shape = self.shape
        y = self.norm_1(x).astype(shape.dtype)
        q, k, v = self.query(y), self.key(y), self.value(y)
        y = attention(q, k, v, shape.heads, shape.rotary)
        x = x + self.dropout_1(self.out(y))
        y = shape.activation(self.up(self.norm_2(x).astype(shape.dtype)))
        return x + self.dropout_2(self.down(y))


class Nnx(nnx.Module):
    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        embed = functools.partial(nnx.Embed, dtype=shape.dtype, rngs=rngs)
        self.tokens = embed(shape.vocabulary, shape.width)
        if shape.positions == "learned":
            self.positions = embed(shape.length, shape.width)
        for name in shape.names:
            setattr(self, name, NnxBlock(shape, rngs))
        self.norm = nnx.LayerNorm(
            shape.width, epsilon=EPSILON, use_bias=shape.bias, rngs=rngs
        )
        if not shape.tied:
            self.output = nnx.Linear(
                shape.width, shape.outputs, use_bias=False, dtype=shape.dtype,
                rngs=rngs,
            )  # fmt: skip
        self.dropout = nnx.Dropout(shape.dropout, rngs=rngs)
        self.shape = shape

    def __call__(self, tokens):
        shape = self.shape
        x = self.tokens(tokens)
        if shape.positions == "learned":
            x = x + self.positions(jnp.arange(tokens.shape[1])[None])
        x = self.dropout(x)
        call = nnx.remat(NnxBlock.__call__) if shape.remat else NnxBlock.__call__
        for name in shape.names:
            x = call(getattr(self, name), x)
        x = self.norm(x).astype(shape.dtype)
        return self.tokens.attend(x) if shape.tied else self.output(x)


def transformer(
    *,
    inputs: Feature,
    output: tuple[int, ...],
    dtype: str,
    width: int,
    heads: int,
    layers: int,
    activation: str,
    positions: str,
    tied: bool,
    bias: bool,
    dropout: float,
    remat: bool,
) -> Model:
    """Tokens [B, T] -> logits [B, T, V].

    Args:
      inputs: tokens [T] of a known vocabulary.
      output: [T, V], as the task needs it.
      dtype: what layers compute in; parameters and LayerNorms are float32.
      width: of the residual stream, a multiple of `heads`; MLPs are four times as wide.
      heads: of each attention.
      layers: the number of blocks.
      activation: of the MLPs: a function of `jax.nn`, by name.
      positions: `learned` embeddings, or `rotary` (Su et al., 2021).
      tied: the output layer has the weights of the embedding (Press and Wolf, 2017).
      bias: of dense layers, but those of keys and outputs, and of LayerNorms.
      dropout: fraction of the embeddings, and of what a block adds, zeroed in training.
      remat: blocks are computed again for their gradients, which saves memory.

    Raises:
      ConfigError: the data aren't tokens, or the options contradict each other.
    """
    common.check_sizes(width=width, heads=heads, layers=layers)
    common.check_rate(dropout)
    length, vocabulary, outputs = _sizes(inputs, output)
    _check(width, heads, positions)
    if tied and vocabulary != outputs:
        raise ConfigError(
            f"model.tied=true needs as many outputs as tokens, which are {outputs} and "
            f"{vocabulary}"
        )
    shape = Shape(
        vocabulary, outputs, length, width, heads, layers,
        common.activation(activation), positions, tied, bias, dropout, remat, dtype,
    )  # fmt: skip
    return Model(
        init=functools.partial(_init, shape),
        jax=functools.partial(_forward, shape),
        linen=lambda: Linen(shape),
        nnx=lambda rngs: Nnx(shape, rngs),
    )


def _sizes(inputs, output) -> tuple[int, int, int]:
    """T, the size of the vocabulary, and that of the outputs."""
    tokens = common.single("transformer", inputs)
    has_logits = isinstance(output, tuple) and len(output) == 2
    if tokens.classes is None or len(tokens.shape) != 1 or not has_logits:
        raise ConfigError(
            "model=transformer takes tokens [T] of a known vocabulary and gives logits "
            f"[T, V]; the input has the shape {tokens.shape} and "
            f"{tokens.classes or 'no'} classes, and the task needs {output}"
        )
    return output[0], tokens.classes, output[1]


def _check(width, heads, positions):
    if positions not in POSITIONS:
        raise ConfigError(
            f"model.positions={positions} is none of {', '.join(POSITIONS)}."
            + did_you_mean(positions, POSITIONS)
        )
    if width % heads:
        raise ConfigError(
            f"model.width={width} must be a multiple of model.heads={heads}"
        )
    if positions == "rotary" and width // heads % 2:
        raise ConfigError(
            f"model.positions=rotary turns pairs, so model.width={width} / "
            f"model.heads={heads} must be even"
        )


def _init(shape: Shape, key: jax.Array):
    """GPT-2's: normal, and smaller where blocks add to the residual stream."""
    width, small = shape.width, STD * (2 * shape.layers) ** -0.5
    keys = iter(jax.random.split(key, 3 + 6 * shape.layers))

    def normal(size: tuple[int, ...], std: float = STD):
        return std * jax.random.normal(next(keys), size, jnp.float32)

    def dense(inputs, outputs, std=STD, bias=shape.bias):
        kernel = {"kernel": normal((inputs, outputs), std)}
        return kernel | ({"bias": jnp.zeros(outputs, jnp.float32)} if bias else {})

    def norm():
        scale = {"scale": jnp.ones(width, jnp.float32)}
        return scale | ({"bias": jnp.zeros(width, jnp.float32)} if shape.bias else {})

    params: dict[str, Any] = {
        "tokens": {"embedding": normal((shape.vocabulary, width))}
    }
    if shape.positions == "learned":
        params["positions"] = {"embedding": normal((shape.length, width))}
    for name in shape.names:
        params[name] = {
            "norm_1": norm(),
            "query": dense(width, width),
            "key": dense(width, width, bias=False),
            "value": dense(width, width),
            "out": dense(width, width, small),
            "norm_2": norm(),
            "up": dense(width, 4 * width),
            "down": dense(4 * width, width, small),
        }
    params["norm"] = norm()
    if not shape.tied:
        params["output"] = dense(width, shape.outputs, bias=False)
    return params, {}


def _forward(shape: Shape, params, model_state, tokens, key, train):
    def drop(x, number):
        return common.dropout(x, shape.dropout, jax.random.fold_in(key, number), train)

    def block(params, x, number):
        y = _norm(params["norm_1"], x, shape.dtype)
        names = ("query", "key", "value")
        q, k, v = (common.dense(params[name], y, shape.dtype) for name in names)
        y = attention(q, k, v, shape.heads, shape.rotary)
        y = common.dense(params["out"], y, shape.dtype)
        x = x + drop(y, 2 * number + 1)
        y = _norm(params["norm_2"], x, shape.dtype)
        y = shape.activation(common.dense(params["up"], y, shape.dtype))
        y = common.dense(params["down"], y, shape.dtype)
        return x + drop(y, 2 * number + 2)

    if shape.remat:
        block = jax.checkpoint(block, static_argnums=2)
    embedding = params["tokens"]["embedding"].astype(shape.dtype)
    x = jnp.take(embedding, tokens, axis=0)
    if shape.positions == "learned":
        at = jnp.arange(tokens.shape[1])[None]
        positions = params["positions"]["embedding"].astype(shape.dtype)
        x = x + jnp.take(positions, at, axis=0)
    x = drop(x, 0)
    for number, name in enumerate(shape.names):
        x = block(params[name], x, number)
    x = _norm(params["norm"], x, shape.dtype)
    if shape.tied:
        return jnp.dot(x, embedding.T), model_state
    return common.dense(params["output"], x, shape.dtype), model_state


def _norm(params, x, dtype):
    """LayerNorm in flax's order of operations, so that all frameworks round alike."""
    x = x.astype(jnp.float32)
    mean, square = (v.mean(axis=-1, keepdims=True) for v in (x, jnp.square(x)))
    var = jnp.maximum(0.0, square - jnp.square(mean))
    scale = jax.lax.rsqrt(var + EPSILON) * params["scale"].reshape(1, 1, -1)
    y = (x - mean) * scale
    if "bias" in params:
        y = y + params["bias"].reshape(1, 1, -1)
    return y.astype(dtype)
