"""The task of predicting which class an example belongs to."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.tasks import task as common
from runner.tasks.task import Task, columns


def classification(
    *,
    features: Mapping[str, Feature],
    inputs: str | list[str],
    labels: str,
    label_smoothing: float,
    class_weights: list[float] | None,
    weights: str | None = None,  # as where it isn't recorded
) -> Task:
    """Softmax cross-entropy in nats between logits [B, classes] and labels [B].

    Args:
      features: the columns of the data.
      inputs: the column that the model gets, or several as a dict.
      labels: a column of integers with a number of classes.
      label_smoothing: how much of the uniform distribution is mixed into the labels
        (Szegedy et al., 2015), in evaluation too.
      class_weights: the weight of the examples of each class; None: 1 for all.
      weights: a column with the weight of each example, too; None: 1 for all; "auto":
        the column `weight` if the data have one.

    Raises:
      ConfigError: a value is out of range, or the data have no such labels.
    """
    check_smoothing(label_smoothing)
    take = columns(inputs, features)
    classes = features[labels].classes if labels in features else None
    if classes is None:
        raise _without_labels(inputs, labels, features)
    if features[labels].shape:
        raise ConfigError(
            f"task.labels={labels} must be one class of each example, shape (), and "
            f"has shape {features[labels].shape}"
        )
    if class_weights is not None and (
        len(class_weights) != classes or not all(w >= 0 for w in class_weights)
    ):
        raise ConfigError(
            f"task.class_weights={class_weights} must have a weight of at least 0 for "
            f"each of the {classes} classes"
        )

    weight = common.weights("weights", weights, "weight", features)

    def loss(logits, batch):
        values = cross_entropy(logits, batch[labels], label_smoothing)
        if class_weights is None:
            return values, weight(batch)
        return values, weight(batch) * jnp.float32(class_weights)[batch[labels]]

    return Task(take, (classes,), loss)


def check_smoothing(label_smoothing: float) -> None:
    """Refuses what is no fraction."""
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"task.label_smoothing={label_smoothing} must be at least 0 and below 1"
        )


def cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float
) -> jax.Array:
    """Of logits [..., classes] and labels [...], in nats and in float32: [...]."""
    logits = logits.astype(jnp.float32)
    if label_smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(one_hot, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def _without_labels(
    inputs: str | list[str], labels: str, features: Mapping[str, Feature]
) -> ConfigError:
    """The refusal of a column that has no labels, with what would do."""
    given = [inputs] if isinstance(inputs, str) else inputs
    others = [name for name in features if name not in given]
    classes = [name for name in others if features[name].classes is not None]
    instead = "task=reconstruction"
    if classes:
        instead = f"task.labels={classes[0]}"
    elif others:
        target = labels if labels in others else others[0]
        instead = f"task=regression task.target={target}"
    why = "has no classes" if labels in features else "is no column"
    return ConfigError(
        f"task=classification needs labels, but task.labels={labels} {why}. The data "
        f"has {', '.join(features)}. Try {instead}"
    )
