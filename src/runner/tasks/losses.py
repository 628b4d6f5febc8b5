"""Losses: what a model's outputs are compared with, one value for each example."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from runner.data.dataset import Dataset
from runner.errors import ConfigError


class Loss(NamedTuple):
    """A loss and its metrics.

    Attributes:
      output_size: the size of one example's output that the loss wants from the model;
        ConfigError where it doesn't fit the data set.
      per_example: (outputs [B, output_size], batch) -> arrays [B], `loss` and metrics.
    """

    output_size: Callable[[Dataset], int]
    per_example: Callable[[jax.Array, dict[str, Any]], dict[str, jax.Array]]


def classification(label_smoothing: float) -> Loss:
    """Softmax cross-entropy in nats, and accuracy.

    Label smoothing (Szegedy et al., 2015) mixes the labels with the uniform
    distribution by `label_smoothing`, in evaluation too.
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"loss.label_smoothing={label_smoothing} must be at least 0 and below 1"
        )

    def output_size(dataset: Dataset) -> int:
        if dataset.num_classes is None:
            raise ConfigError(
                f"loss=classification needs labels; data={dataset.name} has none. "
                "Try loss=reconstruction"
            )
        return dataset.num_classes

    def per_example(logits_BxC, batch):
        labels_B = batch["label"]
        if label_smoothing == 0:
            loss = optax.softmax_cross_entropy_with_integer_labels(logits_BxC, labels_B)
        else:
            one_hot_BxC = jax.nn.one_hot(labels_B, logits_BxC.shape[-1])
            targets_BxC = optax.smooth_labels(one_hot_BxC, label_smoothing)
            loss = optax.softmax_cross_entropy(logits_BxC, targets_BxC)
        hits = jnp.argmax(logits_BxC, axis=-1) == labels_B
        return {"loss": loss, "accuracy": hits.astype(jnp.float32)}

    return Loss(output_size, per_example)


def reconstruction() -> Loss:
    """Mean squared error between the outputs and the flattened inputs."""

    def output_size(dataset: Dataset) -> int:
        return math.prod(dataset.input_shape)

    def per_example(outputs_BxD, batch):
        targets_BxD = batch["input"].reshape(outputs_BxD.shape)
        return {"loss": jnp.mean((outputs_BxD - targets_BxD) ** 2, axis=-1)}

    return Loss(output_size, per_example)
