"""The seam between the three frameworks and everything else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from runner.tasks.loss import Loss


class TrainState(NamedTuple):
    """The state that training changes: trees of dicts and arrays in every framework."""

    params: Any
    model_state: Any
    opt_state: Any


class Pipeline(NamedTuple):
    """Pure functions on `TrainState`, each written in its framework's own idiom.

    Attributes:
      init: (key, learning_rate, hyperparameters) -> TrainState.
      gradients: (state, batch, key) -> (loss, metrics, grads, model_state): the mean
        loss of the batch and, for each metric, its mean.
      apply_gradients: (state, grads, loss, learning_rate, hyperparameters, loss_fn,
        eval_loss) -> TrainState. `loss_fn` gives the batch's loss at any parameters;
        `eval_loss` is the latest evaluation's, inf if none came since the last step.
      predict: (state, batch) -> outputs [B, output_size], in evaluation mode.
    """

    init: Callable[[jax.Array, Any, dict], TrainState]
    gradients: Callable[[TrainState, dict, jax.Array], tuple[jax.Array, dict, Any, Any]]
    apply_gradients: Callable[..., TrainState]
    predict: Callable[[TrainState, dict], jax.Array]


def mean_loss(loss: Loss, outputs: jax.Array, batch: dict) -> tuple[jax.Array, dict]:
    """The batch's mean loss, and the mean of each metric."""
    means = {k: jnp.mean(v) for k, v in loss.per_example(outputs, batch).items()}
    return means.pop("loss"), means


def same_dtypes(new: Any, old: Any) -> Any:
    """`new` in the dtypes of `old`: some optax states change theirs in an update."""
    return jax.tree.map(
        lambda n, o: n if n.dtype == o.dtype else n.astype(o.dtype), new, old
    )
