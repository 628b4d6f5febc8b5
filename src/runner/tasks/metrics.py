"""The metrics that come with the runner: conf/metric names them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from runner.data.dataset import Feature
from runner.data.transforms import Batch
from runner.errors import ConfigError, what_is
from runner.tasks.metric import Metric, average, matched
from runner.tasks.task import feature


def accuracy(*, labels: str) -> Metric:
    """The fraction of examples, or tokens, whose largest logit is that of the label."""
    return average(
        lambda logits, batch: _truth(logits, batch, labels) == jnp.argmax(logits, -1),
        "max",
    )


def top_k(*, labels: str, k: int) -> Metric:
    """The fraction of examples whose label is among the `k` largest logits."""
    if k < 1:
        raise ConfigError(f"top_k: k={k} must be at least 1")

    def hits(logits, batch):
        own = _truth(logits, batch, labels)[..., None]
        if k > logits.shape[-1]:
            raise ConfigError(f"k={k} is more than the {logits.shape[-1]} classes")
        least = jax.lax.top_k(logits, k)[0][..., -1:]
        own = jnp.take_along_axis(logits, own, axis=-1)
        return (own >= least)[..., 0]

    return average(hits, "max")


def per_class_accuracy(*, labels: str, features: Mapping[str, Feature]) -> Metric:
    """The accuracy of the examples of each class: `.../0`, `.../1` and so on.

    NaN for a class without examples.
    """
    size = _classes("per_class_accuracy", labels, features)

    def update(logits, batch, counted):
        own = _truth(logits, batch, labels)
        truth = jax.nn.one_hot(own, size)
        hits = jnp.argmax(logits, axis=-1) == own
        counted, hits = matched(counted, hits)
        kept = truth * counted[..., None]
        axes = tuple(range(kept.ndim - 1))
        return {"hits": (kept * hits[..., None]).sum(axes), "count": kept.sum(axes)}

    def finish(s):
        share = s["hits"] / s["count"]
        return {str(i): share[i] for i in range(size)}

    return Metric(update, finish, "max")


def macro_f1(*, labels: str, features: Mapping[str, Feature]) -> Metric:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN); 0 / 0 counts as 0."""
    size = _classes("macro_f1", labels, features)

    def update(logits, batch, counted):
        own = _truth(logits, batch, labels)
        counted, predicted = matched(counted, jnp.argmax(logits, axis=-1))
        truth, guess = (
            jax.nn.one_hot(x, size) * counted[..., None] for x in (own, predicted)
        )
        axes = tuple(range(truth.ndim - 1))
        return {
            "true_positives": (truth * guess).sum(axes),
            "guesses_and_truths": (truth + guess).sum(axes),
        }

    def finish(s):
        total = s["guesses_and_truths"]
        f1 = 2 * s["true_positives"] / jnp.where(total > 0, total, 1)
        return f1.mean()

    return Metric(update, finish, "max")


def perplexity(*, labels: str) -> Metric:
    """exp of the mean cross-entropy in nats, whatever the loss smooths or weights."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return average(
        lambda logits, batch: cross_entropy(logits, _truth(logits, batch, labels)),
        "min",
        jnp.exp,
    )


def mse(*, target: str) -> Metric:
    """The mean squared error, in the square of the target's units."""
    return average(
        lambda outputs, batch: jnp.square(_error(outputs, batch, target)), "min"
    )


def mae(*, target: str) -> Metric:
    """The mean absolute error, in the target's units."""
    return average(
        lambda outputs, batch: jnp.abs(_error(outputs, batch, target)), "min"
    )


def _truth(logits: jax.Array, batch: Batch, labels: str) -> jax.Array:
    """The classes, of which there is one for all logits along the last axis.

    Raises:
      ConfigError: there isn't; JAX would compare each example with each other one.
    """
    _check_array(logits)
    truth = batch[labels]
    if truth.shape != logits.shape[:-1]:
        raise ConfigError(
            f"the column {labels} has shape {truth.shape}, and logits of shape "
            f"{logits.shape} need one of shape {logits.shape[:-1]}"
        )
    return truth


def _error(outputs, batch, target):
    _check_array(outputs)
    return outputs - batch[target].reshape(outputs.shape)


def _check_array(outputs: Any) -> None:
    if not hasattr(outputs, "shape"):
        raise ConfigError(
            f"the model's outputs are {what_is(outputs)}, of which this metric can't "
            "know which are meant; write one that does (docs/own_metric.md)"
        )


def _classes(name: str, labels: str, features: Mapping[str, Feature]) -> int:
    classes = feature("labels", labels, features).classes
    if classes is None:
        raise ConfigError(f"{name}: the column {labels} has no known number of classes")
    return classes
