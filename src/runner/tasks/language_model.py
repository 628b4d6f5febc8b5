"""The task of predicting the next token."""

from collections.abc import Mapping

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.tasks.classification import check_smoothing, cross_entropy
from runner.tasks.task import Task, columns, feature, weights


def language_model(
    *,
    features: Mapping[str, Feature],
    inputs: str,
    labels: str,
    mask: str | None,
    label_smoothing: float,
) -> Task:
    """Cross-entropy in nats a token, between logits [B, T, V] and tokens [B, T].

    Args:
      features: the columns of the data.
      inputs: a column of tokens [T], which the model gets.
      labels: the column with the token that follows each of them.
      mask: a column [T] with the weight of each token in the loss; None: 1 for all;
        "auto": the column `mask` if the data have one.
      label_smoothing: how much of the uniform distribution is mixed into the labels.

    Raises:
      ConfigError: the data have no such columns.
    """
    check_smoothing(label_smoothing)
    found = feature("labels", labels, features)
    if found.classes is None or len(found.shape) != 1:
        raise ConfigError(
            f"task=language_model needs tokens [T] of a known vocabulary; the column "
            f"task.labels={labels} has the shape {found.shape} and "
            f"{found.classes or 'no'} classes"
        )
    weight = weights("mask", mask, "mask", features)

    def loss(logits, batch):
        values = cross_entropy(logits, batch[labels], label_smoothing)
        return values, weight(batch)

    return Task(columns(inputs, features), (*found.shape, found.classes), loss)
