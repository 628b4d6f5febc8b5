"""The model of optax' notebook nanoLM in linen, from its definition there.

https://github.com/google-deepmind/optax/blob/2edbcbe/examples/nanolm.ipynb
"""

from typing import Any

import jax.numpy as jnp
from flax import linen


class NanoLM(linen.Module):
    """Tokens [B, T] -> logits [B, T, V].

    `attended` is the width of queries, keys and values, those of all heads together;
    the notebook calls it `head_size`, and hands it over as `qkv_features`.
    """

    vocabulary: int
    layers: int
    heads: int
    attended: int
    width: int
    length: int
    dropout: float = 0.2

    @linen.compact
    def __call__(self, tokens, training: bool):
        length = tokens.shape[1]
        x = linen.Embed(self.vocabulary, self.width)(tokens)
        # The notebook leaves these broadcasts to NumPy's rules, which tests refuse.
        x = x + linen.Embed(self.length, self.width)(jnp.arange(length))[None]
        for _ in range(self.layers):
            y = linen.LayerNorm()(x)
            mask = jnp.tril(jnp.ones((length, length)))[None, None]
            attention = linen.MultiHeadDotProductAttention(
                num_heads=self.heads,
                qkv_features=self.attended,
                out_features=self.width,
                dropout_rate=self.dropout,
            )
            x = x + attention(y, y, mask=mask, deterministic=not training)
            y = linen.relu(linen.Dense(4 * self.width)(linen.LayerNorm()(x)))
            y = linen.Dropout(self.dropout, deterministic=not training)(y)
            x = x + linen.Dense(self.width)(y)
        return linen.Dense(self.vocabulary)(linen.LayerNorm()(x))


def as_nanolm(params: dict[str, Any], heads: int) -> dict[str, Any]:
    """The parameters of runner's transformer, or values like them, as NanoLM's."""

    def by_head(name, dense):
        if name == "out":
            kernel = dense["kernel"].reshape(heads, -1, dense["kernel"].shape[1])
            return dense | {"kernel": kernel}
        return {
            key: value.reshape(*value.shape[:-1], heads, -1)
            for key, value in dense.items()
        }

    count = sum(name.startswith("block_") for name in params)
    found = {"Embed_0": params["tokens"], "Embed_1": params["positions"]}
    for i in range(count):
        block = params[f"block_{i}"]
        found |= {
            f"LayerNorm_{2 * i}": block["norm_1"],
            f"LayerNorm_{2 * i + 1}": block["norm_2"],
            f"MultiHeadDotProductAttention_{i}": {
                name: by_head(name, block[name])
                for name in ("query", "key", "value", "out")
            },
            f"Dense_{2 * i}": block["up"],
            f"Dense_{2 * i + 1}": block["down"],
        }
    return found | {
        f"LayerNorm_{2 * count}": params["norm"], f"Dense_{2 * count}": params["output"]
    }  # fmt: skip
