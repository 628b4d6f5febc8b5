"""Small models in linen and nnx, as somebody who ports one would write them.

None has canonical initial values.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen, nnx

from helpers.ported_transformer import (
    LENGTH,
    VOCABULARY,
    WIDTH,
    LinenTransformer,
    Transformer,
)
from runner.models.model import Model, dense, dropout


class LinenMlp(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = linen.relu(linen.Dense(16)(x))
            x = linen.Dropout(0.25, deterministic=not train)(x)
        return linen.Dense(10)(x)


class NnxMlp(nnx.Module):
    """A fault is the name of one."""

    def __init__(self, fault, rngs):
        make = functools.partial(nnx.Linear, rngs=rngs)
        self.first, self.output = make(64, 16), make(16, 10)
        init = nnx.initializers.normal(0.02) if fault == "init" else None
        self.more = make(16, 16, **({"kernel_init": init} if init else {}))
        self.dropout = nnx.Dropout(
            0.5 if fault == "rate" else 0.25,
            broadcast_dims=(0,) if fault == "broadcast" else (),
            rngs=rngs,
        )
        self.fault = fault
        if fault == "extra":
            self.scale = nnx.Param(jnp.ones(16))

    def __call__(self, x):
        x = nnx.relu(self.first(x.reshape(len(x), -1)))
        if self.fault == "stopped":
            x = jax.lax.stop_gradient(x)
        x = x if self.fault == "missing" else self.dropout(x)
        x = self.dropout(nnx.relu(self.more(x)))
        if self.fault == "extra":
            x = x * self.scale[...][None]
        return self.output(x)


def jax_mlp(params, model_state, x, key, train):
    """The same in pure JAX, with linen's parameters."""
    x = x.reshape(len(x), -1)
    for name in ("Dense_0", "Dense_1"):
        key, own = jax.random.split(key)
        x = jax.nn.relu(dense(params[name], x, "float32"))
        x = dropout(x, 0.25, own, train)
    return dense(params["Dense_2"], x, "float32"), model_state


def three_forms(*, inputs, output) -> Model:
    return Model(jax=jax_mlp, linen=LinenMlp, nnx=functools.partial(NnxMlp, None))


def other_names(*, inputs, output) -> Model:
    """Its jax form has names that linen doesn't have."""

    def forward(params, *others, **more):
        return jax_mlp({"Dense_0": params["first"]}, *others, **more)

    return Model(jax=forward, linen=LinenMlp)


class LinenCnn(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        for features in (4, 8):
            x = linen.Conv(features, (3, 3), use_bias=False)(x)
            norm = linen.BatchNorm(use_running_average=not train, momentum=0.9)
            x = linen.max_pool(linen.relu(norm(x)), (2, 2), strides=(2, 2))
        x = linen.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1))
        return linen.Dense(10)(x)


class NnxCnn(nnx.Module):
    def __init__(self, momentum, rngs):
        conv = functools.partial(
            nnx.Conv, kernel_size=(3, 3), use_bias=False, rngs=rngs
        )
        norm = functools.partial(nnx.BatchNorm, momentum=momentum, rngs=rngs)
        self.convs = nnx.List([conv(1, 4), conv(4, 8)])
        self.norms = nnx.List([norm(4), norm(8)])
        self.output = nnx.Linear(32, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return self.output(self.dropout(x.reshape(len(x), -1)))


class LinenLstm(linen.Module):
    @linen.compact
    def __call__(self, tokens, train):
        x = linen.Embed(VOCABULARY, 8)(tokens)
        return linen.Dense(VOCABULARY)(linen.RNN(linen.LSTMCell(WIDTH))(x))


class NnxLstm(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, 8, rngs=rngs)
        self.recurrent = nnx.RNN(nnx.LSTMCell(8, WIDTH, rngs=rngs))
        self.output = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        return self.output(self.recurrent(self.embed(tokens)))


class LinenAutoencoder(linen.Module):
    """Its code is noisy in training."""

    @linen.compact
    def __call__(self, x, train):
        code = linen.tanh(linen.Dense(8, name="encoder")(x.reshape(len(x), -1)))
        if train:
            code += 0.1 * jax.random.normal(self.make_rng("noise"), code.shape)
        return linen.Dense(64, name="decoder")(code).reshape(x.shape)


class NnxAutoencoder(nnx.Module):
    def __init__(self, rngs):
        self.encoder = nnx.Linear(64, 8, rngs=rngs)
        self.decoder = nnx.Linear(8, 64, rngs=rngs)
        self.mode = nnx.Dropout(0.0)  # follows `train()` and `eval()`
        self.rngs = rngs

    def __call__(self, x):
        code = nnx.tanh(self.encoder(x.reshape(len(x), -1)))
        if not self.mode.deterministic:
            code += 0.1 * jax.random.normal(self.rngs.noise(), code.shape)
        return self.decoder(code).reshape(x.shape)


class LinenResidual(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(8, (3, 3))(x)
        for i in range(2):
            h = linen.GroupNorm(num_groups=2, name=f"norms_{i}")(x)
            h = linen.Conv(8, (3, 3), name=f"convs_{i}")(linen.silu(h))
            x = x + linen.Dropout(0.1, deterministic=not train)(h)
        return linen.Dense(10)(x.mean((1, 2)))


class NnxResidual(nnx.Module):
    def __init__(self, rngs):
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
        self.stem, self.convs = conv(1, 8), nnx.List([conv(8, 8) for _ in range(2)])
        norms = [nnx.GroupNorm(8, num_groups=2, rngs=rngs) for _ in range(2)]
        self.norms = nnx.List(norms)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.output = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x += self.dropout(conv(nnx.silu(norm(x))))
        return self.output(jnp.mean(x, axis=(1, 2)))


class LinenBag(linen.Module):
    """The mean of the embeddings of tokens other than 0."""

    @linen.compact
    def __call__(self, tokens, train):
        weights = (tokens > 0).astype(jnp.float32)
        x = linen.Embed(VOCABULARY, 8)(tokens) * weights[..., None]
        x = x.sum(1) / jnp.maximum(weights.sum(1, keepdims=True), 1)
        x = linen.Dense(VOCABULARY * LENGTH)(x)
        return x.reshape(len(x), LENGTH, VOCABULARY)


class NnxBag(nnx.Module):
    def __init__(self, rngs):
        self.bag = nnx.Embed(VOCABULARY, 8, rngs=rngs)
        self.output = nnx.Linear(8, VOCABULARY * LENGTH, rngs=rngs)

    def __call__(self, tokens):
        counts = jnp.sum(jnp.eye(VOCABULARY)[tokens], axis=1).at[:, 0].set(0)
        total = jnp.clip(counts.sum(1), 1)[:, None]
        x = self.output(counts @ self.bag.embedding[...] / total)
        return x.reshape(-1, LENGTH, VOCABULARY)


class LinenNorms(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for norm in (linen.LayerNorm(), linen.RMSNorm(), linen.GroupNorm(4)):
            x = linen.elu(norm(linen.Dense(16)(x)))
        return linen.Dense(10)(x)


class NnxRms(nnx.Module):
    """By hand."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(16))

    def __call__(self, x):
        size = jnp.linalg.norm(x, axis=-1, keepdims=True) ** 2 / x.shape[-1]
        return x * (self.scale[...][None] * (size + 1e-6) ** -0.5)


class NnxNorms(nnx.Module):
    def __init__(self, epsilon, rngs):
        self.layers = nnx.List([nnx.Linear(n, 16, rngs=rngs) for n in (64, 16, 16)])
        group = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        first = nnx.LayerNorm(16, epsilon=epsilon, rngs=rngs)
        self.norms = nnx.List([first, NnxRms(), group])
        self.output = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.elu(norm(layer(x)))
        return self.output(x)


CORRECT = {
    "mlp": Model(linen=LinenMlp, nnx=functools.partial(NnxMlp, None)),
    "cnn": Model(linen=LinenCnn, nnx=functools.partial(NnxCnn, 0.9)),
    "learned": Model(linen=LinenTransformer, nnx=Transformer()),
    "rotary": Model(
        linen=lambda: LinenTransformer(rotary=True),
        nnx=Transformer(rotary=True, by_hand=True),
    ),
    "tied": Model(
        linen=lambda: LinenTransformer(tied=True),
        nnx=Transformer(tied=True, by_hand=True),
    ),
    "lstm": Model(linen=LinenLstm, nnx=NnxLstm),
    "autoencoder": Model(linen=LinenAutoencoder, nnx=NnxAutoencoder),
    "residual": Model(linen=LinenResidual, nnx=NnxResidual),
    "bag": Model(linen=LinenBag, nnx=NnxBag),
    "norms": Model(linen=LinenNorms, nnx=functools.partial(NnxNorms, 1e-6)),
}

# By the name of a fault, which of these the nnx form is a port of, and that form.
FAULTS = {
    "scale": ("learned", Transformer(by_hand=True, scaled=False)),
    "epsilon": ("norms", functools.partial(NnxNorms, 1e-5)),
    "gelu": ("learned", Transformer(approximate=False)),
    "dropout": ("learned", Transformer(drop_first=False)),
    "untied": ("tied", Transformer(by_hand=True)),
    "momentum": ("cnn", functools.partial(NnxCnn, 0.99)),
    **{
        fault: ("mlp", functools.partial(NnxMlp, fault))
        for fault in ("init", "rate", "missing", "broadcast", "stopped", "extra")
    },
}
