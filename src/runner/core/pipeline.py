"""The seam between the three frameworks and everything else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from runner.tasks.task import Sums


class TrainState(NamedTuple):
    """The state that training changes: trees of dicts and arrays in every framework."""

    params: Any
    model_state: Any
    opt_state: Any


class Pipeline(NamedTuple):
    """Pure functions on `TrainState`, each written in its framework's own idiom.

    Attributes:
      init: (key, learning_rate, hyperparameters) -> TrainState.
      gradients: (state, batch, key) -> (sums, grads, model_state): what
        `runner.tasks.task.sums` gives for the outputs in training mode, and the
        gradients of the mean loss, `mean(sums.loss, sums.weight)`.
      apply_gradients: (state, grads, loss, learning_rate, hyperparameters, loss_fn,
        eval_loss) -> TrainState. `loss_fn` gives the batch's loss at any parameters;
        `eval_loss` is the latest evaluation's, inf if none came since the last step.
      predict: (state, inputs) -> outputs, in evaluation mode. It gets nothing else of a
        batch.
      partitioning: () -> {path: (shape, names)} of the parameters whose model says how
        they are split: a name, a tuple of them or None for each dimension.
    """

    init: Callable[[jax.Array, Any, dict], TrainState]
    gradients: Callable[[TrainState, dict, jax.Array], tuple[Sums, Any, Any]]
    apply_gradients: Callable[..., TrainState]
    predict: Callable[[TrainState, Any], Any]
    partitioning: Callable[[], dict[str, tuple]] = lambda: {}


def same_dtypes(new: Any, old: Any) -> Any:
    """`new` in the dtypes of `old`: some optax states change theirs in an update."""
    return jax.tree.map(
        lambda n, o: n if n.dtype == o.dtype else n.astype(o.dtype), new, old
    )
