"""Decoder-only transformer (Radford et al., 2019): tokens [B, T] -> logits [B, T, V].

Blocks of causal attention and MLP, each after a LayerNorm. Keys have no bias unless it
is asked for: it changes no output, and Adam scales up its gradient, which is nothing
but rounding.
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
from runner.models.attention import SEQUENCES_AND_HEADS, attention
from runner.models.model import Model

STD = 0.02  # of GPT-2's initial values
POSITIONS = ("learned", "rotary")
INITIAL_VALUES = ("gpt2", "flax")


class Shape(NamedTuple):
    """The sizes and options that all forms share: see `transformer`."""

    vocabulary: int
    outputs: int
    length: int
    width: int
    heads: int
    head_width: int
    layers: int
    activation: Callable
    positions: str
    tied: bool
    bias: bool
    key_bias: bool
    output_bias: bool
    norm_epsilon: float
    initial_values: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    remat: bool
    dtype: str

    @property
    def attended(self) -> int:
        """The width of queries, keys and values, those of all heads together."""
        return self.heads * self.head_width

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
            made = linen.LayerNorm(
                epsilon=shape.norm_epsilon, use_bias=shape.bias, name=name
            )
            return made(x).astype(shape.dtype)

        def dropout(name, rate, broadcast_dims=()):
            return linen.Dropout(
                rate, broadcast_dims, deterministic=not self.train, name=name
            )

        drop = dropout(None, shape.dropout)
        drop_weights = None
        if shape.attention_dropout:
            drop_weights = dropout(
                "attention_dropout", shape.attention_dropout, SEQUENCES_AND_HEADS
            )
        y = norm("norm_1", x)
        q = dense("query", shape.attended)(y)
        k = dense("key", shape.attended, shape.key_bias)(y)
        v = dense("value", shape.attended)(y)
        y = attention(q, k, v, shape.heads, shape.rotary, drop_weights)
        x = x + drop(dense("out", shape.width)(y))
        y = shape.activation(dense("up", 4 * shape.width)(norm("norm_2", x)))
        y = dropout("activation_dropout", shape.activation_dropout)(y)
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
        norm = linen.LayerNorm(
            epsilon=shape.norm_epsilon, use_bias=shape.bias, name="norm"
        )
        x = norm(x).astype(shape.dtype)
        if shape.tied:
            return embed.attend(x)
        out = linen.Dense(
            shape.outputs, use_bias=shape.output_bias, dtype=shape.dtype, name="output"
        )
        return out(x)


class NnxBlock(nnx.Module):
    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        dense = functools.partial(nnx.Linear, dtype=shape.dtype, rngs=rngs)
        width, attended, bias = shape.width, shape.attended, shape.bias
        norm = functools.partial(
            nnx.LayerNorm, width, epsilon=shape.norm_epsilon, use_bias=bias, rngs=rngs
        )
        self.norm_1, self.norm_2 = norm(), norm()
        self.query = dense(width, attended, use_bias=bias)
        self.key = dense(width, attended, use_bias=shape.key_bias)
        self.value = dense(width, attended, use_bias=bias)
        self.out = dense(attended, width, use_bias=bias)
        self.up = dense(width, 4 * width, use_bias=bias)
        self.down = dense(4 * width, width, use_bias=bias)
        self.dropout_1 = nnx.Dropout(shape.dropout, rngs=rngs)
        self.dropout_2 = nnx.Dropout(shape.dropout, rngs=rngs)
        # Made only to drop: one takes a key, after which others drop something else.
        self.attention_dropout = (
            nnx.Dropout(
                shape.attention_dropout, broadcast_dims=SEQUENCES_AND_HEADS, rngs=rngs
            )
            if shape.attention_dropout
            else None
        )
        self.activation_dropout = (
            nnx.Dropout(shape.activation_dropout, rngs=rngs)
            if shape.activation_dropout
            else None
        )
        self.shape = shape

    def __call__(self, x):
        shape = self.shape
        y = self.norm_1(x).astype(shape.dtype)
        q, k, v = self.query(y), self.key(y), self.value(y)
        y = attention(q, k, v, shape.heads, shape.rotary, self.attention_dropout)
        x = x + self.dropout_1(self.out(y))
        y = shape.activation(self.up(self.norm_2(x).astype(shape.dtype)))
        if self.activation_dropout is not None:
            y = self.activation_dropout(y)
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
            shape.width, epsilon=shape.norm_epsilon, use_bias=shape.bias, rngs=rngs
        )
        if not shape.tied:
            self.output = nnx.Linear(
                shape.width, shape.outputs, use_bias=shape.output_bias,
                dtype=shape.dtype, rngs=rngs,
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
    head_width: int | None,
    layers: int,
    activation: str,
    positions: str,
    tied: bool,
    bias: bool,
    key_bias: bool,
    output_bias: bool,
    norm_epsilon: float,
    initial_values: str,
    dropout: float,
    attention_dropout: float,
    activation_dropout: float,
    remat: bool,
) -> Model:
    """Tokens [B, T] -> logits [B, T, V].

    Args:
      inputs: tokens [T] of a known vocabulary.
      output: [T, V], as the task needs it.
      dtype: what layers compute in; parameters and LayerNorms are float32.
      width: of the residual stream; MLPs are four times as wide.
      heads: of each attention.
      head_width: of the queries, keys and values of a head. None: `width` / `heads`,
        which must be a whole number.
      layers: the number of blocks.
      activation: of the MLPs: a function of `jax.nn`, by name.
      positions: `learned` embeddings, or `rotary` (Su et al., 2021).
      tied: the output layer has the weights of the embedding (Press and Wolf, 2017).
      bias: of dense layers, but those of keys and outputs, and of LayerNorms.
      key_bias: of the dense layers of keys, which changes no output.
      output_bias: of the output layer, which has none if it is tied.
      norm_epsilon: added to the variance in LayerNorms.
      initial_values: `gpt2` (normal, of 0.02, and smaller where blocks add to the
        residual stream), or `flax`, its own of these layers: LeCun's for kernels, and
        embeddings with the variance 1 / `width`. Biases are 0.
      dropout: fraction of the embeddings, and of what a block adds, zeroed in training.
      attention_dropout: fraction of attention's weights: those of the same two
        positions, in all sequences and heads at once, as flax does.
      activation_dropout: fraction of the MLPs' activations.
      remat: blocks are computed again for their gradients, which saves memory.

    Raises:
      ConfigError: the data aren't tokens, or the options contradict each other.
    """
    common.check_sizes(width=width, heads=heads, layers=layers)
    common.check_rates(
        dropout=dropout,
        attention_dropout=attention_dropout,
        activation_dropout=activation_dropout,
    )
    length, vocabulary, outputs = _sizes(inputs, output)
    _check_choice("positions", positions, POSITIONS)
    _check_choice("initial_values", initial_values, INITIAL_VALUES)
    head_width = _head_width(width, heads, head_width)
    if positions == "rotary" and head_width % 2:
        raise ConfigError(
            "model.positions=rotary turns pairs, so model.head_width, which is "
            f"{head_width}, must be even; null is model.width={width} / "
            f"model.heads={heads}"
        )
    if tied and output_bias:
        raise ConfigError("model.output_bias=true needs model.tied=false")
    if tied and vocabulary != outputs:
        raise ConfigError(
            f"model.tied=true needs as many outputs as tokens, which are {outputs} and "
            f"{vocabulary}"
        )
    shape = Shape(
        vocabulary, outputs, length, width, heads, head_width, layers,
        common.activation(activation), positions, tied, bias, key_bias, output_bias,
        norm_epsilon, initial_values, dropout, attention_dropout, activation_dropout,
        remat, dtype,
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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"model.{name}={value} is none of {', '.join(choices)}."
            + did_you_mean(value, choices)
        )


def _head_width(width: int, heads: int, given: int | None) -> int:
    if given is not None:
        common.check_sizes(head_width=given)
        return given
    if width % heads:
        raise ConfigError(
            f"model.width={width} must be a multiple of model.heads={heads}, or "
            "model.head_width be given"
        )
    return width // heads


def _init(shape: Shape, key: jax.Array):
    """The values that `initial_values` names; see `transformer`."""
    width, small = shape.width, STD * (2 * shape.layers) ** -0.5
    is_flax = shape.initial_values == "flax"
    keys = iter(jax.random.split(key, 3 + 6 * shape.layers))

    def normal(size: tuple[int, ...], std: float):
        return std * jax.random.normal(next(keys), size, jnp.float32)

    def embedding(count):
        return {"embedding": normal((count, width), width**-0.5 if is_flax else STD)}

    def dense(inputs, outputs, std=STD, bias=shape.bias):
        size = inputs, outputs
        kernel = common.lecun_normal(next(keys), size) if is_flax else normal(size, std)
        own = {"bias": jnp.zeros(outputs, jnp.float32)} if bias else {}
        return {"kernel": kernel} | own

    def norm():
        scale = {"scale": jnp.ones(width, jnp.float32)}
        return scale | ({"bias": jnp.zeros(width, jnp.float32)} if shape.bias else {})

    params: dict[str, Any] = {"tokens": embedding(shape.vocabulary)}
    if shape.positions == "learned":
        params["positions"] = embedding(shape.length)
    for name in shape.names:
        params[name] = {
            "norm_1": norm(),
            "query": dense(width, shape.attended),
            "key": dense(width, shape.attended, bias=shape.key_bias),
            "value": dense(width, shape.attended),
            "out": dense(shape.attended, width, small),
            "norm_2": norm(),
            "up": dense(width, 4 * width),
            "down": dense(4 * width, width, small),
        }
    params["norm"] = norm()
    if not shape.tied:
        params["output"] = dense(width, shape.outputs, bias=shape.output_bias)
    return params, {}


def _forward(shape: Shape, params, model_state, tokens, key, train):
    def drop(x, number, rate=shape.dropout, broadcast_dims=()):
        each = jax.random.fold_in(key, number)
        return common.dropout(x, rate, each, train, broadcast_dims)

    def norm(params, x):
        return _norm(params, x, shape.norm_epsilon, shape.dtype)

    def block(params, x, number):
        def drop_weights(weights):
            rate, after = shape.attention_dropout, 2 * (shape.layers + number) + 1
            return drop(weights, after, rate, SEQUENCES_AND_HEADS)

        y = norm(params["norm_1"], x)
        names = ("query", "key", "value")
        q, k, v = (common.dense(params[name], y, shape.dtype) for name in names)
        y = attention(
            q, k, v, shape.heads, shape.rotary,
            drop_weights if shape.attention_dropout else None,
        )  # fmt: skip
        y = common.dense(params["out"], y, shape.dtype)
        x = x + drop(y, 2 * number + 1)
        y = norm(params["norm_2"], x)
        y = shape.activation(common.dense(params["up"], y, shape.dtype))
        y = drop(y, 2 * (shape.layers + number) + 2, shape.activation_dropout)
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
    x = norm(params["norm"], x)
    if shape.tied:
        return jnp.dot(x, embedding.T), model_state
    return common.dense(params["output"], x, shape.dtype), model_state


def _norm(params, x, epsilon, dtype):
    """LayerNorm in flax's order of operations, so that all frameworks round alike."""
    x = x.astype(jnp.float32)
    mean, square = (v.mean(axis=-1, keepdims=True) for v in (x, jnp.square(x)))
    var = jnp.maximum(0.0, square - jnp.square(mean))
    scale = jax.lax.rsqrt(var + epsilon) * params["scale"].reshape(1, 1, -1)
    y = (x - mean) * scale
    if "bias" in params:
        y = y + params["bias"].reshape(1, 1, -1)
    return y.astype(dtype)
