"""Fixed gradients, losses and learning rates, and how optimizers respond to them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from optax.contrib import ReduceLROnPlateauState

from runner.core.optimizers import OptimizerSpec, extra_arguments
from runner.core.pipeline import Pipeline, TrainState
from runner.core.schedules import ReduceOnPlateau
from runner.core.snapshot import on_host
from runner.errors import ConfigError

STEPS = 8


class Problem(NamedTuple):
    """Fixed inputs of STEPS updates; trees like the parameters, in float64."""

    params: Any
    gradients: list[Any]
    losses: np.ndarray
    eval_losses: np.ndarray
    learning_rates: np.ndarray


@contextlib.contextmanager
def float64_on_cpu():
    # Accelerators lack float64.
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        yield


def _float64(leaf: Any) -> Any:
    """`leaf` on the host, in float64 if it was float32.

    Other types, such as bfloat16 moments, were asked for: they are checked too.
    Not on a device, where each operation takes 10 ms to load and its results would
    inherit the mesh's sharding.
    """
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, jax.local_devices(backend="cpu")[0])
    if isinstance(leaf, jax.Array):
        leaf = on_host(leaf)
    return np.asarray(leaf, np.float64 if leaf.dtype == np.float32 else None)


def start(state: TrainState, wanted: OptimizerSpec) -> tuple[TrainState, Problem]:
    """`state` in float64, and the problem to drive it with."""
    # The large first step moves parameters that start at zero, such as biases, far
    # enough for an unwanted weight decay to show.
    rates = np.array([1.0, *wanted.learning_rates(STEPS - 1)])
    state = jax.tree.map(_float64, state)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(state.params)]
    structure = jax.tree.structure(state.params)

    def gradient(step):
        # The last ones are large, so that clipping takes effect.
        size = 1000.0 if step == STEPS - 1 else 0.1 + 0.1 * (step % 3)
        leaves = []
        for i, shape in enumerate(shapes):
            at = np.arange(np.prod(shape, dtype=int)).reshape(shape)
            # Every fourth is zero: only decay or momentum moves a parameter there.
            leaf = np.sin(0.7 * at + 1.3 * step + i) * size
            leaves.append(np.where(at % 4 == 3, 0, leaf))
        return jax.tree.unflatten(structure, leaves)

    gradients = [gradient(step) for step in range(STEPS)]
    # A plateau rule lowers its scale if fed the first of these, but not the second: see
    # _about_to_fall.
    losses, eval_losses = 2.0 - 0.1 * np.arange(STEPS), 0.5 - 0.01 * np.arange(STEPS)
    if isinstance(wanted.schedule, ReduceOnPlateau):
        losses *= wanted.schedule.accumulation_size
        if wanted.schedule.watch == "validation":
            losses, eval_losses = eval_losses, losses
    return state, Problem(state.params, gradients, losses, eval_losses, rates)


def live_changes(
    step: Callable,
    state: TrainState,
    problem: Problem,
    hyperparameters: dict,
    wanted: OptimizerSpec,
) -> list[Any]:
    """The changes that a `live_step` of the pipeline makes, one by one."""
    state = state._replace(opt_state=_about_to_fall(state.opt_state, wanted))
    changed = []
    for gradients, loss, eval_loss, rate in _steps(problem):
        try:
            after = step(state, gradients, loss, eval_loss, rate, hyperparameters)
        except Exception as error:
            raise ConfigError(
                "verify: the pipeline's apply_gradients raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if jax.tree.structure(after.params) != jax.tree.structure(state.params):
            raise ConfigError(
                "verify: apply_gradients changed the structure of the parameters"
            )
        changed.append(jax.tree.map(np.subtract, after.params, state.params))
        state = after
    return changed


def live_step(pipeline: Pipeline) -> Callable:
    """The pipeline's `apply_gradients`, jitted, for `live_changes`."""

    @jax.jit
    def step(state, gradients, loss, eval_loss, rate, hyperparameters):
        loss_fn = _loss_at(state.params, gradients, loss)
        return pipeline.apply_gradients(
            state, gradients, loss, rate, hyperparameters, loss_fn, eval_loss
        )

    return step


def changes_of(tx: Any, *, problem: Problem, wanted: OptimizerSpec) -> list[Any]:
    """The changes that `tx` makes on `problem`, step by step."""

    @jax.jit
    def step(params, opt_state, gradients, loss, eval_loss):
        loss_fn = _loss_at(params, gradients, loss)
        extra = extra_arguments(gradients, loss, loss_fn, eval_loss)
        updates, opt_state = tx.update(gradients, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state

    params = problem.params
    opt_state = jax.tree.map(_float64, jax.jit(tx.init)(params))
    opt_state = _about_to_fall(opt_state, wanted)
    changed = []
    for gradients, loss, eval_loss, _ in _steps(problem):
        after, opt_state = step(params, opt_state, gradients, loss, eval_loss)
        changed.append(jax.tree.map(np.subtract, after, params))
        params = after
    return changed


def _steps(problem: Problem) -> Iterator[tuple[Any, float, float, float]]:
    return zip(*problem[1:], strict=True)


def _loss_at(params: Any, gradients: Any, loss: Any) -> Callable[[Any], jax.Array]:
    """A parabola with this value and these gradients at `params`, for line searches."""

    def loss_fn(at):
        away = optax.tree.sub(at, params)
        square = optax.tree.vdot(away, away)
        return loss + optax.tree.vdot(gradients, away) + 0.5 * square

    return loss_fn


def _about_to_fall(opt_state: Any, wanted: OptimizerSpec) -> Any:
    """`opt_state` with its plateau rule, if any, one loss away from scaling.

    The window's mean is 0 so far and the best one is 1, so the scale falls only on the
    loss that makes the mean 2.
    """
    schedule = wanted.schedule
    if not isinstance(schedule, ReduceOnPlateau):
        return opt_state

    def set_up(node):
        if not isinstance(node, ReduceLROnPlateauState):
            return node
        values = {
            "best_value": 1.0,
            "avg_value": 0.0,
            "count": schedule.accumulation_size - 1,
            "plateau_count": schedule.patience - 1,
        }
        return node._replace(
            **{k: np.asarray(v, getattr(node, k).dtype) for k, v in values.items()}
        )

    def is_plateau(node):
        return isinstance(node, ReduceLROnPlateauState)

    return jax.tree.map(set_up, opt_state, is_leaf=is_plateau)
