"""Causal attention of several heads, the same function in every framework."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

PERIOD = 10_000.0  # of the slowest rotation; Su et al., 2021
SEQUENCES_AND_HEADS = 0, 1  # the dimensions of weights that flax drops all alike


def attention(
    query_BxTxD: Array,
    key_BxTxD: Array,
    value_BxTxD: Array,
    heads: int,
    rotary: bool,
    drop: Callable[[Array], Array] | None,
) -> Array:
    """What each position takes from those up to it: [B, T, D].

    Args:
      query_BxTxD, key_BxTxD, value_BxTxD: D is that of all heads together.
      heads: how many.
      rotary: turn queries and keys by their positions (Su et al., 2021).
      drop: dropout of the weights [B, heads, T, T]. None: they have none, and needn't
        exist, so that an accelerator may compute the whole in one kernel.
    """
    shape = query_BxTxD.shape

    def split(x_BxTxD):
        return x_BxTxD.reshape(*shape[:2], heads, shape[2] // heads)

    query, key, value = (split(x) for x in (query_BxTxD, key_BxTxD, value_BxTxD))
    if rotary:
        query, key = _rotated(query), _rotated(key)
    if drop is None:
        found = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    else:
        weights_BxHxTxS = drop(_weights(query, key))
        found = jnp.einsum("BHTS,BSHK->BTHK", weights_BxHxTxS, value)
    return found.reshape(shape)


def _weights(query_BxTxHxK: Array, key_BxSxHxK: Array) -> Array:
    """How much each position takes from each one up to it: [B, H, T, S], of sum 1."""
    scores = jnp.einsum(
        "BTHK,BSHK->BHTS", query_BxTxHxK, key_BxSxHxK,
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    scores = scores * query_BxTxHxK.shape[-1] ** -0.5
    is_past = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
    scores = jnp.where(is_past, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores).astype(query_BxTxHxK.dtype)


def _rotated(x_BxTxHxK: Array) -> Array:
    """Pairs of one half and the other, turned by angles that grow with the position."""
    length, half = x_BxTxHxK.shape[1], x_BxTxHxK.shape[3] // 2
    speeds = PERIOD ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * speeds[None]
    cos, sin = (f(angles)[None, :, None] for f in (jnp.cos, jnp.sin))
    one, other = jnp.split(x_BxTxHxK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1)
    return turned.astype(x_BxTxHxK.dtype)
