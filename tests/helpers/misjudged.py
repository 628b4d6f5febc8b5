"""A user's parts with which an evaluation depends on what it must not depend on."""

import jax
import jax.numpy as jnp

from runner.models.model import Model
from runner.tasks.metric import Metric


def by_batch():
    """A transform that takes the mean of each batch, in evaluation too."""

    def transform(batch, key, train):
        images = batch["input"].astype(jnp.float32)
        return batch | {"input": images - images.mean(axis=0, keepdims=True)}

    return transform


def noisy():
    """A transform whose noise, in evaluation, is the same in each batch."""

    def transform(batch, key, train):
        own = jax.random.key(0) if key is None else key
        images = batch["input"].astype(jnp.float32)
        return batch | {"input": images + jax.random.normal(own, images.shape)}

    return transform


def nothing():
    """A transform that forgets to return."""
    return lambda batch, key, train: None


def cropped():
    """A transform that crops in training alone."""

    def transform(batch, key, train):
        return batch | {"input": batch["input"][:, 1:]} if train else batch

    return transform


def half():
    """A transform that leaves out examples."""
    return lambda batch, key, train: {k: v[::2] for k, v in batch.items()}


def dropped(*, inputs, output, always: bool) -> Model:
    """Dropout, `always` on, has one mask; the norm keeps its first statistics."""
    (classes,) = output

    def init(key):
        zeros, unused = jnp.zeros((64, classes)), jnp.ones((2, 2))
        return {"kernel": zeros, "unused": unused}, {"norm": {"mean": jnp.zeros(64)}}

    def forward(params, model_state, x, key, train):
        x = x.reshape(len(x), -1) - model_state["norm"]["mean"][None]
        kept = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
        return (x * kept if train or always else x) @ params["kernel"], model_state

    return Model(init=init, jax=forward)


def everybody():
    """A metric of all examples, those that fill up a last batch too."""

    def update(logits, batch, counted):
        right = logits.argmax(-1) == batch["label"]
        return {"sum": right.sum(), "count": jnp.asarray(right.size)}

    return Metric(update, lambda s: s["sum"] / s["count"], better="max")


def divided_by_all():
    """A metric that leaves them out of its sum, and counts them."""

    def update(logits, batch, counted):
        right = counted & (logits.argmax(-1) == batch["label"])
        return {"sum": right.sum(), "count": jnp.asarray(right.size)}

    return Metric(update, lambda s: s["sum"] / s["count"], better="max")


def paired():
    """An honest metric that can't be computed of any number of examples."""

    def update(logits, batch, counted):
        first, second = jnp.split(counted, 2)
        return {"pairs": (first & second).sum()}

    return Metric(update, lambda s: s["pairs"], better=None)
