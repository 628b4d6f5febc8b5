"""A transformer in linen, and in nnx as somebody who ports it would write it.

What a faulty port does otherwise is a field of `Transformer`.
"""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen, nnx

WIDTH, HEADS, VOCABULARY, LENGTH = 16, 2, 11, 6
INIT = nnx.initializers.normal(0.5)  # of embeddings, in both frameworks


def turned(x_BxTxHxK):
    """Rotary positions (Su et al., 2021), each half of the channels turned as one."""
    size = x_BxTxHxK.shape[-1] // 2
    angles = jnp.outer(
        jnp.arange(x_BxTxHxK.shape[1]), 100.0 ** (-jnp.arange(size) / size)
    )
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    a, b = jnp.split(x_BxTxHxK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class LinenAttention(linen.Module):
    """Rotary, by hand."""

    @linen.compact
    def __call__(self, x):
        size = WIDTH // HEADS
        q, k, v = (
            linen.DenseGeneral((HEADS, size), name=name)(x) for name in ("q", "k", "v")
        )
        scores = jnp.einsum("bthk,bshk->bhts", turned(q), turned(k)) / jnp.sqrt(size)
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
        weights = linen.softmax(jnp.where(causal, scores, -1e10))
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v)
        return linen.DenseGeneral(WIDTH, axis=(-2, -1), name="out")(mixed)


class LinenBlock(linen.Module):
    rotary: bool

    @linen.compact
    def __call__(self, x, train):
        h = linen.LayerNorm()(x)
        if self.rotary:
            h = LinenAttention()(h)
        else:
            mask = linen.make_causal_mask(x[..., 0])
            h = linen.MultiHeadDotProductAttention(
                HEADS, dropout_rate=0.0 if self.rotary else 0.1, deterministic=not train
            )(h, mask=mask)
        x = x + linen.Dropout(0.2, deterministic=not train)(h)
        h = linen.gelu(linen.Dense(4 * WIDTH)(linen.LayerNorm()(x)))
        return x + linen.Dropout(0.1, deterministic=not train)(linen.Dense(WIDTH)(h))


class LinenTransformer(linen.Module):
    rotary: bool = False
    tied: bool = False

    @linen.compact
    def __call__(self, tokens, train):
        embed = linen.Embed(VOCABULARY, WIDTH, embedding_init=INIT)
        x = embed(tokens)
        if not self.rotary:
            x = x + linen.Embed(LENGTH, WIDTH)(jnp.arange(LENGTH)[None])
        x = LinenBlock(self.rotary)(x, train)
        x = linen.LayerNorm()(x)
        return embed.attend(x) if self.tied else linen.Dense(VOCABULARY)(x)


class NnxAttention(nnx.Module):
    """With or without rotary positions and dropout of the weights, by hand."""

    def __init__(self, rotary, scaled, rngs):
        size = WIDTH // HEADS
        make = functools.partial(nnx.LinearGeneral, rngs=rngs)
        self.query, self.key, self.value = (make(WIDTH, (HEADS, size)) for _ in "qkv")
        self.out = make((HEADS, size), WIDTH, axis=(-2, -1))
        self.dropout = nnx.Dropout(
            0.0 if rotary else 0.1, broadcast_dims=(0, 1), rngs=rngs
        )
        self.rotary, self.scaled = rotary, scaled

    def __call__(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.rotary:
            q, k = turned(q), turned(k)
        q, k, v = (jnp.swapaxes(each, 1, 2) for each in (q, k, v))
        scores = q @ jnp.swapaxes(k, -1, -2)
        if self.scaled:
            scores = scores * q.shape[-1] ** -0.5
        later = jnp.triu(jnp.ones(scores.shape[-2:], bool), 1)[None, None]
        scores = jnp.where(later, jnp.finfo(scores.dtype).min, scores)
        mixed = self.dropout(nnx.softmax(scores)) @ v
        return self.out(jnp.swapaxes(mixed, 1, 2))


class NnxBlock(nnx.Module):
    def __init__(self, form, rngs):
        self.form = form
        if form.by_hand:
            self.attention = NnxAttention(form.rotary, form.scaled, rngs)
        else:
            self.attention = nnx.MultiHeadAttention(
                HEADS, WIDTH, dropout_rate=0.1, decode=False, rngs=rngs
            )
        self.before = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.between = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        h = self.before(x)
        if self.form.by_hand:
            h = self.attention(h)
        else:
            h = self.attention(h, mask=nnx.make_causal_mask(x[..., 0]))
        x = x + self.drop(h) if self.form.drop_first else self.drop(x + h)
        h = nnx.gelu(self.up(self.between(x)), approximate=self.form.approximate)
        return x + self.last(self.down(h))


class NnxTransformer(nnx.Module):
    def __init__(self, form, rngs):
        self.form = form
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, embedding_init=INIT, rngs=rngs)
        if not form.rotary:
            self.positions = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(form, rngs)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        if not form.tied:
            self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens)
        if not self.form.rotary:
            x = x + self.positions(jnp.arange(LENGTH)[None])
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.tokens.attend(x) if self.form.tied else self.head(x)


@dataclass(frozen=True)
class Transformer:
    """What differs between transformers: the kind first, then what may be faulty."""

    rotary: bool = False
    tied: bool = False
    by_hand: bool = False
    scaled: bool = True
    approximate: bool = True
    drop_first: bool = True

    def __call__(self, rngs: nnx.Rngs) -> NnxTransformer:
        return NnxTransformer(self, rngs)
