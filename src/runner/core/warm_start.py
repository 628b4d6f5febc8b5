"""Initial values that come from a file instead of a model's own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from runner.core.pipeline import TrainState
from runner.errors import ConfigError
from runner.trees import kinds


class WarmStart(NamedTuple):
    """Values for some of a model's arrays.

    Which of them are taken is an argument of the program too, so that runs which start
    from other files share it.

    Attributes:
      values: a TrainState without an optimizer's state; zeros where none are taken.
      taken: for each of its arrays, whether it replaces the model's own.
    """

    values: TrainState
    taken: TrainState


def warmed(
    state: TrainState, start: WarmStart, tx: optax.GradientTransformation
) -> TrainState:
    """`state` with the values of `start`, and the state with which `tx` starts there.

    Raises:
      ConfigError: the pipeline keeps something else beside the optimizer's state.
    """
    own = state._replace(opt_state=())
    new = jax.tree.map(lambda x, value, taken: jnp.where(taken, value, x), own, *start)
    made = tx.init(new.params)
    if kinds(made) != kinds(state.opt_state):
        raise ConfigError(
            "init_from needs a pipeline whose opt_state is that of its optimizer, as "
            "optax makes it, and this one has other arrays in it"
        )
    structure = jax.tree.structure(state.opt_state)
    return new._replace(opt_state=jax.tree.unflatten(structure, jax.tree.leaves(made)))
