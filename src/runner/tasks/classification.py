"""The loss for predicting which class an example belongs to."""

import jax
import jax.numpy as jnp
import optax

from runner.data.dataset import Dataset
from runner.errors import ConfigError
from runner.tasks.loss import Loss


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
