"""A character transformer in flax nnx: int tokens [B, T] -> logits [B, T, V]."""

import jax.numpy as jnp
from flax import nnx

from runner.data.dataset import Feature
from runner.models.model import Model


class Block(nnx.Module):
    """Pre-norm attention and MLP (Radford et al., 2019)."""

    def __init__(self, width: int, heads: int, dtype: str, rngs: nnx.Rngs):
        # No bias: that of the keys changes no output, so its gradient is nothing but
        # rounding, which Adam would scale up.
        self.attention = nnx.MultiHeadAttention(
            heads, width, use_bias=False, decode=False, dtype=dtype, rngs=rngs
        )
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.up = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x, mask):
        x += self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    def __init__(self, vocabulary, length, width, heads, layers, dtype, rngs):
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        blocks = [Block(width, heads, dtype, rngs) for _ in range(layers)]
        self.blocks = nnx.List(blocks)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, vocabulary, dtype=dtype, rngs=rngs)

    def __call__(self, tokens_BxT):
        mask = nnx.make_causal_mask(tokens_BxT)
        positions_1xT = jnp.arange(tokens_BxT.shape[1])[None]
        x_BxTxD = self.tokens(tokens_BxT) + self.positions(positions_1xT)
        for block in self.blocks:
            x_BxTxD = block(x_BxTxD, mask)
        return self.output(self.norm(x_BxTxD))


def transformer(
    *,
    inputs: Feature,
    output: tuple[int, int],
    dtype: str,
    width: int,
    heads: int,
    layers: int,
) -> Model:
    """Decoder with learned positions.

    Args:
      inputs: tokens [T] of a known vocabulary.
      output: [T, V], as the task needs it.
      dtype: what attention and dense layers compute in.
      width: of the residual stream; a multiple of `heads`.
      heads: of each attention.
      layers: the number of blocks.
    """
    length, vocabulary = output
    sizes = (max(vocabulary, inputs.classes or 0), length, width, heads, layers, dtype)
    return Model(nnx=lambda rngs: Transformer(*sizes, rngs))
