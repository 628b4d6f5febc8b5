"""What runs is what the config says: the live pipeline against textbook optax.

flax #4087 was an optimizer mix-up that everybody took for a difference between
frameworks. So, before training, the pipeline's own `apply_gradients` is driven with
fixed gradients, losses and learning rates, and each change that it makes to a parameter
is compared with what the optimizer of the config makes of them, used as optax's
documentation says. In float64, so that rounding doesn't hide a weight decay.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import ReduceLROnPlateauState

from runner.errors import ConfigError
from runner.frameworks.pipeline import Pipeline, State
from runner.lookalike import looks_like
from runner.optimization import Optimization
from runner.optimizers import extra_arguments
from runner.schedules import ReduceOnPlateau

STEPS = 8
# Of the largest change of a parameter. Two float64 implementations of one formula agree
# to 1e-12; learning rates are float32, and a pipeline may compute them in its own way.
TOLERANCE = 1e-6


class Problem(NamedTuple):
    """Fixed inputs of STEPS updates; trees like the parameters, in float64."""

    params: Any
    gradients: list[Any]
    losses: np.ndarray
    learning_rates: np.ndarray


def verify(
    pipeline: Pipeline,
    hyperparameters: dict[str, float],
    wanted: Optimization,
    key: Any,
) -> None:
    """Refuse a pipeline whose updates aren't those of `wanted`.

    Args:
      pipeline: the live one.
      hyperparameters: what the run gives it.
      wanted: what the config asks for.
      key: of the initial parameters.

    Raises:
      ConfigError: naming the parameter, the step, by how much the change is off, and
        the optimizer that the changes look like.
    """
    with _float64_on_cpu():
        hyperparameters = {k: float(v) for k, v in hyperparameters.items()}
        state, problem = _start(pipeline, hyperparameters, wanted, key)
        observed = _live(pipeline, state, problem, hyperparameters, wanted)
        replay = functools.partial(_changes, problem=problem, wanted=wanted)
        expected = replay(wanted.textbook(problem.learning_rates))
        difference = _first_difference(observed, expected, problem.params)
        if difference:
            likeness = looks_like(observed, wanted, problem.learning_rates, replay)
            raise ConfigError(
                f"verify: the pipeline doesn't do what the config says. {difference}. "
                f"{likeness}. (verify=false trains all the same)"
            )


def probe(
    pipeline: Pipeline, hyperparameters: dict[str, float], wanted: Optimization
) -> list[float]:
    """What the optimizer did, in numbers: changes of a small pipeline's parameters.

    Runs with equal probes were updated alike, whatever their configs call it. To six
    digits, so that another machine's rounding doesn't show; it doesn't depend on seeds.

    Args:
      pipeline: of a model that is the same for all runs, with the run's optimizer.
      hyperparameters, wanted: as for `verify`.
    """
    with _float64_on_cpu():
        hyperparameters = {k: float(v) for k, v in hyperparameters.items()}
        key = jax.random.key(0)
        state, problem = _start(pipeline, hyperparameters, wanted, key)
        changes = _live(pipeline, state, problem, hyperparameters, wanted)
        # The first parameter and the fourth, whose gradient is zero.
        flat = [np.ravel(jax.tree.leaves(change)[-1])[[0, 3]] for change in changes]
    return [float(f"{value:.6g}") for value in np.ravel(flat)]


@contextlib.contextmanager
def _float64_on_cpu():
    # Accelerators lack float64.
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(cpu):
        yield


def _float64(leaf: Any) -> Any:
    real = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(jnp.float64) if real else leaf


def _start(
    pipeline: Pipeline, hyperparameters: dict, wanted: Optimization, key: Any
) -> tuple[State, Problem]:
    # The large first step moves parameters that start at zero, such as biases, to
    # where a weight decay that shouldn't be there shows.
    rates = np.array([1.0, *wanted.learning_rates(STEPS - 1)])
    state = jax.jit(pipeline.init)(key, rates[0], hyperparameters)
    state = jax.tree.map(_float64, state)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(state.params)]
    structure = jax.tree.structure(state.params)

    def gradient(step):
        leaves = []
        for i, shape in enumerate(shapes):
            at = np.arange(np.prod(shape, dtype=int)).reshape(shape)
            # Every fourth is zero: there only a decay or a momentum moves a parameter.
            leaf = np.sin(0.7 * at + 1.3 * step + i) * (0.1 + 0.1 * (step % 3))
            leaves.append(np.where(at % 4 == 3, 0, leaf))
        return jax.tree.unflatten(structure, leaves)

    gradients = [gradient(step) for step in range(STEPS)]
    losses = 2.0 - 0.1 * np.arange(STEPS)
    if isinstance(wanted.schedule, ReduceOnPlateau):
        losses *= wanted.schedule.accumulation_size  # see _about_to_fall
    return state, Problem(state.params, gradients, losses, rates)


def _live(
    pipeline: Pipeline,
    state: State,
    problem: Problem,
    hyperparameters: dict,
    wanted: Optimization,
) -> list[Any]:
    """The changes that the pipeline makes, step by step."""

    @jax.jit
    def step(state, gradients, loss, rate):
        loss_fn = _loss_at(state.params, gradients, loss)
        return pipeline.apply_gradients(
            state, gradients, loss, rate, hyperparameters, loss_fn, loss
        )

    state = state._replace(opt_state=_about_to_fall(state.opt_state, wanted))
    changes = []
    for gradients, loss, rate in _steps(problem):
        try:
            after = step(state, gradients, loss, rate)
        except Exception as error:
            raise ConfigError(
                "verify: the pipeline's apply_gradients raised "
                f"{type(error).__name__}: {error}"
            ) from error
        if jax.tree.structure(after.params) != jax.tree.structure(state.params):
            raise ConfigError(
                "verify: apply_gradients changed which parameters there are"
            )
        changes.append(jax.tree.map(np.subtract, after.params, state.params))
        state = after
    return changes


def _changes(tx: Any, *, problem: Problem, wanted: Optimization) -> list[Any]:
    """The changes that `tx` makes on `problem`, step by step."""

    @jax.jit
    def step(params, opt_state, gradients, loss):
        loss_fn = _loss_at(params, gradients, loss)
        extra = extra_arguments(gradients, loss, loss_fn, loss)
        updates, opt_state = tx.update(gradients, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state

    params = problem.params
    opt_state = _about_to_fall(jax.tree.map(_float64, tx.init(params)), wanted)
    changes = []
    for gradients, loss, _ in _steps(problem):
        after, opt_state = step(params, opt_state, gradients, loss)
        changes.append(jax.tree.map(np.subtract, after, params))
        params = after
    return changes


def _steps(problem: Problem) -> Iterator[tuple[Any, float, float]]:
    return zip(problem.gradients, problem.losses, problem.learning_rates, strict=True)


def _loss_at(params: Any, gradients: Any, loss: Any) -> Callable[[Any], jax.Array]:
    """A parabola with this value and these gradients at `params`, for line searches."""

    def loss_fn(at):
        away = optax.tree.sub(at, params)
        square = optax.tree.vdot(away, away)
        return loss + optax.tree.vdot(gradients, away) + 0.5 * square

    return loss_fn


def _about_to_fall(opt_state: Any, wanted: Optimization) -> Any:
    """`opt_state` with its plateau, if any, one loss away from scaling.

    The window's mean is so far 0 and the best one 1, so it falls only if it is fed the
    first loss, which makes the mean 2.
    """
    schedule = wanted.schedule
    if not isinstance(schedule, ReduceOnPlateau):
        return opt_state

    def set_up(node):
        if not isinstance(node, ReduceLROnPlateauState):
            return node
        like = lambda value, old: jnp.asarray(value, jnp.asarray(old).dtype)  # noqa: E731
        return node._replace(
            best_value=like(1.0, node.best_value),
            avg_value=like(0.0, node.avg_value),
            count=like(schedule.accumulation_size - 1, node.count),
            plateau_count=like(schedule.patience - 1, node.plateau_count),
        )

    is_plateau = lambda node: isinstance(node, ReduceLROnPlateauState)  # noqa: E731
    return jax.tree.map(set_up, opt_state, is_leaf=is_plateau)


def _first_difference(observed: list, expected: list, params: Any) -> str | None:
    """The first step, and in it the parameter, at which changes differ most."""
    for step, (ours, theirs) in enumerate(zip(observed, expected, strict=True)):
        worst, where = 0.0, ""
        leaves = jax.tree.leaves_with_path(ours)
        others = zip(*map(jax.tree.leaves, (theirs, params)), strict=True)
        for (path, change), (wanted, value) in zip(leaves, others, strict=True):
            eps = np.finfo(np.asarray(change).dtype).eps
            rounding = 4 * eps * np.max(np.abs(value), initial=1)
            tolerance = TOLERANCE * np.max(np.abs(wanted), initial=0) + rounding
            off = np.abs(np.asarray(change, float) - wanted)
            off = np.where(np.isnan(off) & np.isnan(wanted), 0, off)
            off = np.where(np.isnan(off), np.inf, off)
            if off.size and off.max() / tolerance > max(worst, 1):
                at = np.unravel_index(off.argmax(), off.shape)
                worst = off.max() / tolerance
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                where = (
                    f"At step {step + 1} of {STEPS} it changed {name}"
                    f"{[int(i) for i in at]} by {np.asarray(change)[at]:.6g} instead "
                    f"of {wanted[at]:.6g}"
                )
        if where:
            return where
    return None
