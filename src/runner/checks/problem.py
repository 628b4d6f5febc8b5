"""Made-up gradients, losses and evaluations: what checks feed an optimizer with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import ReduceLROnPlateauState

from runner.core.schedules import ReduceOnPlateau

STEPS = 512  # of a trajectory
EVERY = 16  # steps between two batches of it
ENDING = 8  # of its last losses are NaN, and half as many of its last gradients
BEST = 100.0  # loss of a plateau before the first step
FORMULA_STEPS = 12  # of the same in float64


class Problem(NamedTuple):
    """The inputs of an optimizer's steps: NumPy arrays [steps, ...].

    Attributes:
      gradients: a tree like the parameters.
      losses, eval_losses: of these, inf where no evaluation came.
      sizes: the parameters are multiplied by these before a step, because rounding
        hides a small change of a large parameter.
    """

    gradients: Any
    losses: np.ndarray
    eval_losses: np.ndarray
    sizes: np.ndarray


def trajectory_problem(params: Any, schedule: Any) -> Problem:
    """STEPS steps on which an optimizer shows everything that it reacts to.

    Losses fall, below zero too, stall, rise and end as NaN; gradients vary in size, the
    larger ones last, because many an optimizer remembers them.

    Args:
      params: shapes of the parameters.
      schedule: that of the run. A plateau rule falls a few times.
    """
    step = np.arange(STEPS)
    late = np.maximum(0, step - 440) / 25
    sizes = 10.0 ** (-4 + 0.3 * (7 * step % 16) + late)
    sizes[-ENDING // 2 :] = np.nan
    window, evaluations = _plateau(schedule)
    losses = _falling(STEPS, window)
    losses[-ENDING:] = np.nan
    eval_losses = np.full(STEPS, np.inf)
    eval_losses[::4] = _falling(STEPS // 4, evaluations)
    _make_fall(schedule, losses, eval_losses)
    return _problem(params, sizes, losses, eval_losses, np.where(step % 2, 1.0, 1e-3))


def formula_problem(params: Any, schedule: Any) -> Problem:
    """FORMULA_STEPS steps without surprises, to compare two formulas in float64."""
    step = np.arange(FORMULA_STEPS)
    # The last ones are large, so that clipping takes effect.
    sizes = np.where(step == FORMULA_STEPS - 1, 1000.0, 0.1 + 0.1 * (step % 3))
    losses = 2.0 - 0.1 * step
    eval_losses = np.where(step % 3 == 1, np.inf, 0.5 - 0.01 * step)
    _make_fall(schedule, losses, eval_losses)
    return _problem(params, sizes, losses, eval_losses, np.ones(FORMULA_STEPS))


def _problem(params, sizes, losses, eval_losses, scales) -> Problem:
    leaves, structure = jax.tree.flatten(params)
    step = np.arange(len(sizes))

    def gradient(i: int, shape: tuple[int, ...]) -> np.ndarray:
        at = np.arange(np.prod(shape, dtype=int))
        found = sizes[:, None] * np.sin(0.7 * at + 1.3 * step[:, None] + i)
        # Every fourth is zero: only decay or momentum moves a parameter there.
        found[:, at % 4 == 3] *= 0
        return found.reshape(-1, *shape)

    gradients = [gradient(i, leaf.shape) for i, leaf in enumerate(leaves)]
    tree = jax.tree.unflatten(structure, gradients)
    return Problem(tree, losses, eval_losses, scales)


def _plateau(schedule: Any) -> tuple[int, int]:
    """How many training losses and how many evaluations a plateau takes to fall."""
    if not isinstance(schedule, ReduceOnPlateau):
        return 5, 5
    values = (schedule.patience + 1) * schedule.accumulation_size + 1
    return (values, 5) if schedule.watch == "train" else (5, values)


def _falling(count: int, stall: int) -> np.ndarray:
    """Losses that fall from 3 to below 0, but for three times, when they rise."""
    stall = min(stall, count // 6)
    falls, extra = np.ones(count), np.zeros(count)
    for start, height in (
        (count // 8, 0.3),
        (count * 3 // 8, 50.0),
        (count * 3 // 4, 0.0),
    ):
        falls[start : start + stall] = 0
        extra[start : start + stall] = height
    return 3 - 5.0 * np.cumsum(falls) / count + extra


def _make_fall(schedule: Any, losses: np.ndarray, eval_losses: np.ndarray) -> None:
    """Let a plateau rule that is `about_to_fall` fall at the first step.

    The other loss, which it must not watch, wouldn't make it fall; nor would any later
    one, all of which are better than BEST.
    """
    if isinstance(schedule, ReduceOnPlateau):
        watched, other = losses, eval_losses
        if schedule.watch == "validation":
            watched, other = eval_losses, losses
        watched[0], other[0] = 2 * BEST * schedule.accumulation_size, 0.5


def about_to_fall(opt_state: Any, schedule: Any) -> Any:
    """`opt_state` with its plateau rule, if any, one loss away from scaling.

    Its patience may be longer than any trajectory. The window's mean is 0 so far and
    the best one BEST, so the scale falls only on a loss that makes the mean larger.
    """
    if not isinstance(schedule, ReduceOnPlateau):
        return opt_state
    values = {
        "best_value": BEST,
        "avg_value": 0.0,
        "count": schedule.accumulation_size - 1,
        "plateau_count": schedule.patience - 1,
    }

    def set_up(node):
        if not isinstance(node, ReduceLROnPlateauState):
            return node
        set_to = {k: jnp.asarray(v, getattr(node, k).dtype) for k, v in values.items()}
        return node._replace(**set_to)

    def is_plateau(node):
        return isinstance(node, ReduceLROnPlateauState)

    return jax.tree.map(set_up, opt_state, is_leaf=is_plateau)


def loss_at(params: Any, gradients: Any, loss: Any) -> Callable[[Any], jax.Array]:
    """A parabola with this value and these gradients at `params`, for line searches."""

    def loss_fn(at):
        away = optax.tree.sub(at, params)
        square = optax.tree.vdot(away, away)
        return loss + optax.tree.vdot(gradients, away) + 0.5 * square

    return loss_fn
