"""A live pipeline and what it should compute, side by side on a toy model.

Compiled functions whose arguments are all that runs of one program may differ in, so
that each run drives its own numbers through them.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.checks.live import checked, like
from runner.checks.problem import (
    EVERY,
    FORMULA_STEPS,
    STEPS,
    Problem,
    about_to_fall,
    formula_problem,
    loss_at,
    trajectory_problem,
)
from runner.checks.reference import Watched, reference
from runner.checks.toy import (
    BATCH_SIZE,
    BATCHES,
    initial_values,
    toy_example,
    toy_rows,
)
from runner.core.compiling import Compiling
from runner.core.optimizers import Optimizer, OptimizerSpec, extra_arguments
from runner.core.pipeline import Pipeline, TrainState, same_dtypes
from runner.data.dataset import Dataset
from runner.data.transforms import transformed
from runner.frameworks.precise import precise
from runner.tasks.task import Task

SEEDS = 3, 7  # of the initial values: the last words of two keys
SCALES = 0.03, 10.0  # of the parameters at which gradients are taken
# A toy runs for milliseconds, so XLA shouldn't think for seconds.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version__.startswith("0.10."):  # newer ones can't do without them
    _QUICK["xla_cpu_use_fusion_emitters"] = False


class Toy(NamedTuple):
    """A live pipeline of the toy model, and what it was made from.

    Attributes:
      pipeline: the live one.
      model: its model, which notes the form that is used.
      task: what it learns.
      optimizer: the family of the run.
      wanted: the optimization that the run asks for; other runs differ in numbers.
      matmul: the precision of matrix products.
      dataset: that of the run.
    """

    pipeline: Pipeline
    model: Watched
    task: Task
    optimizer: Optimizer
    wanted: OptimizerSpec
    matmul: str
    dataset: Dataset

    def reference(self) -> Pipeline:
        """What `pipeline` should compute, by the form of the model that it uses."""
        parts = self.task, self.optimizer, toy_example(self.dataset)
        made = reference(self.model, self.model.its_form, *parts)
        return precise(made, self.matmul)


class Both(NamedTuple):
    """The same thing of the live pipeline and of the reference."""

    live: Any
    reference: Any


class Updates(NamedTuple):
    """Parameters before and after each step: trees of [steps, ...]."""

    before: Any
    after: Both


class Trajectory(NamedTuple):
    """What a pipeline does, [steps, ...] or, once in EVERY steps, [batches, ...].

    Attributes:
      initial: those of two keys.
      gradients: (sums, gradients, model_state).
      params: those at which the gradients were taken.
    """

    initial: TrainState
    updates: Updates
    gradients: Both
    outputs: Both
    params: Any


@contextlib.contextmanager
def on_cpu(float64: bool) -> Iterator[None]:
    """Where checks run: accelerators lack float64, and NaN is part of the problem."""
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(float64), jax.default_device(cpu), jax.debug_nans(False):
        yield


class Trajectories:
    """Compiles the trajectories of a program in the background; runs share it.

    Args:
      toy: what they are taken with.
    """

    def __init__(self, toy: Toy):
        self.toy = toy
        params, schedule = initial_values(np.uint32(0), np)[0], toy.wanted.schedule
        problem = trajectory_problem(params, schedule)
        self.problem = jax.tree.map(np.float32, problem)
        self.formula_problem = formula_problem(params, schedule)

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        return toy_rows(self.toy.dataset)

    @functools.cached_property
    def _float32(self) -> Compiling:
        numbers = np.zeros(STEPS, np.float32), self._values(np.float32)
        return _compiling(partial(_trajectory, self.toy), False, (
            self._rows, _keys(), self.problem, *numbers,
        ))  # fmt: skip

    @functools.cached_property
    def _float64(self) -> Compiling:
        values = {k: np.zeros(VARIANTS) for k in self._values(np.float64)}
        rates = np.zeros((VARIANTS, FORMULA_STEPS))
        arguments = self.formula_problem, rates, values
        return _compiling(partial(_formula, self.toy), True, arguments)

    def start(self, verify: bool) -> None:
        """Begin to compile; `verify`: also what only verification needs."""
        with on_cpu(float64=False):
            _ = verify and self._float32
            _ = self._float64

    def take(self, rates: np.ndarray, hyperparameters: dict[str, float]) -> Trajectory:
        """The trajectory of a run in its own precision.

        Args:
          rates: the learning rate of each of STEPS steps.
          hyperparameters: those of the run.
        """
        values = {k: np.float32(v) for k, v in hyperparameters.items()}
        with on_cpu(float64=False):
            compiled = self._float32.result()
            found = compiled(self._rows, _keys(), self.problem, rates, values)
            return jax.device_get(found)

    def formula(self, rates: np.ndarray, values: dict[str, np.ndarray]) -> Updates:
        """The updates of several variants in float64: trees of [variants, steps, ...].

        Args:
          rates: learning rates [variants, FORMULA_STEPS].
          values: hyperparameters [variants].
        """
        with on_cpu(float64=True):
            found = self._float64.result()(self.formula_problem, rates, values)
            return jax.device_get(found)

    def _values(self, dtype: Any) -> dict[str, Any]:
        return {k: dtype(0) for k in self.toy.optimizer.hyperparameters}


VARIANTS = 3  # of the hyperparameters, in float64


class _Within(NamedTuple):
    """A jitted function that is traced as checks run."""

    jitted: Any
    float64: bool

    def lower(self, *arguments: Any) -> Any:
        with on_cpu(self.float64):
            return self.jitted.lower(*arguments)


def _compiling(function: Callable, float64: bool, arguments: tuple) -> Compiling:
    jitted = jax.jit(function, compiler_options=_QUICK)
    return Compiling(_Within(jitted, float64), *arguments)


def _keys() -> np.ndarray:
    """Key data: those of SEEDS for the initial values, and one for each batch."""
    words = np.array([*SEEDS, *range(100, 100 + STEPS // EVERY)], np.uint32)
    return np.stack([np.zeros_like(words), words], axis=1)


def _trajectory(toy, rows, keys, problem, rates, hyperparameters) -> Trajectory:
    live = checked(toy.pipeline)
    keys = jax.random.wrap_key_data(keys)
    initial = jax.lax.map(
        lambda key: live.init(key, rates[0], hyperparameters), keys[: len(SEEDS)]
    )
    initial = _with_structure(initial, len(SEEDS))
    start = jax.tree.map(lambda x: x[0], initial)
    expected = toy.reference()
    batches = jax.tree.map(
        lambda x: x.reshape(BATCHES, BATCH_SIZE, *x.shape[1:]),
        transformed(toy.dataset.transforms, rows, None),
    )
    step, opt_states = _step(toy, live, rates, hyperparameters, start)

    def turn(carry, given):
        several, key, batch, scale = given
        model_state = carry[-1]
        (center, opt_states, _), updates = jax.lax.scan(step, carry, several)
        params = jax.tree.map(lambda x: scale * x, center)
        state = TrainState(params, model_state, opt_states.live)
        batch = {k: v[batch] for k, v in batches.items()}
        gradients = Both(*(p.gradients(state, batch, key) for p in (live, expected)))
        gradients = Both(like(*gradients, "gradients"), gradients.reference)
        inputs = toy.task.inputs(batch)
        outputs = Both(*(p.predict(state, inputs) for p in (live, expected)))
        outputs = Both(like(*outputs, "predict"), outputs.reference)
        carry = center, opt_states, gradients.reference[2]
        return carry, (updates, gradients, outputs, params)

    turns = STEPS // EVERY
    several = jax.tree.map(
        lambda x: x.reshape(turns, EVERY, *x.shape[1:]), (problem, rates)
    )
    scales = np.geomspace(*SCALES, turns, dtype=np.float32)
    at = np.arange(turns, dtype=np.int32) % BATCHES
    given = several, keys[len(SEEDS) :], at, scales
    carry = start.params, opt_states, start.model_state
    _, (updates, *found) = jax.lax.scan(turn, carry, given)
    updates = jax.tree.map(lambda x: x.reshape(STEPS, *x.shape[2:]), updates)
    return Trajectory(initial, updates, *found)


def _formula(toy, problem, rates, values) -> Updates:
    live = checked(toy.pipeline)

    def variant(given):
        rates, values = given
        narrow = jax.tree.map(lambda x: x.astype(jnp.float32), values)
        with jax.enable_x64(False):
            key = jax.random.wrap_key_data(np.array([0, SEEDS[0]], np.uint32))
            start = _with_structure(live.init(key, jnp.float32(1), narrow))
        start = jax.tree.map(_float64, start)
        step, opt_states = _step(toy, live, rates, values, start)
        carry = start.params, jax.tree.map(_float64, opt_states), start.model_state
        return jax.lax.scan(step, carry, (problem, rates))[1]

    return jax.lax.map(variant, (rates, values))


def _with_structure(state: TrainState, *lead: int) -> TrainState:
    """`state`, of which the parameters must be those of the toy."""
    toy = initial_values(np.uint32(0), np)
    wanted = jax.tree.map(lambda x: np.zeros((*lead, *x.shape)), toy)
    return TrainState(*like(state[:2], wanted, "init"), state.opt_state)


def _float64(leaf: Any) -> Any:
    """`leaf`, in float64 if it was float32.

    Other types, such as bfloat16 moments, were asked for: they are checked too.
    """
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


def _step(toy, live, rates, hyperparameters, start):
    """A `scan` body of one step of both, and their optimizer states before the first.

    Each keeps its own state, but both start each step at the same parameters: those of
    the reference, which are kept small, because rounding hides a change of a large one.
    """
    tx = toy.wanted.with_values(hyperparameters).textbook(rates)
    opt_states = Both(start.opt_state, tx.init(start.params))
    opt_states = about_to_fall(opt_states, toy.wanted.schedule)

    def step(carry, given):
        center, opt_states, model_state = carry
        (grads, loss, eval_loss, size), rate = given
        params = jax.tree.map(lambda x: size * x, center)
        loss_fn = loss_at(params, grads, loss)
        state = TrainState(params, model_state, opt_states.live)
        after = live.apply_gradients(
            state, grads, loss, rate, hyperparameters, loss_fn, eval_loss
        )
        expected, opt_state = _updated(
            tx, params, opt_states.reference, grads, loss, eval_loss
        )
        new = Both(after.opt_state, opt_state)
        new = same_dtypes(like(new, opt_states, "apply_gradients"), opt_states)
        both = Both(like(after.params, params, "apply_gradients"), expected)
        center = jax.tree.map(
            lambda x, new, old: jnp.clip(x + (new - old).astype(x.dtype), -4, 4),
            center, expected, params,
        )  # fmt: skip
        return (center, new, model_state), Updates(params, both)

    return step, opt_states


def _updated(tx, params, opt_state, grads, loss, eval_loss):
    extra = extra_arguments(grads, loss, loss_at(params, grads, loss), eval_loss)
    updates, opt_state = tx.update(grads, opt_state, params, **extra)
    return optax.apply_updates(params, updates), opt_state


def replayed(
    candidate: OptimizerSpec, before: Any, problem: Problem, rates: Any, first: int
) -> Any:
    """The changes that an optimizer makes to the same parameters: [n, steps, ...].

    Args:
      candidate: the optimizer.
      before: the parameters before each step; their dtype is what it computes in.
      problem: the rest of its inputs.
      rates: its learning rates [n, steps].
      first: the step at which it starts, with a new state.
    """
    float64 = problem.losses.dtype == np.float64

    @functools.partial(jax.jit, compiler_options=_QUICK)
    def run(before, problem, rates):
        def one(rates):
            tx = candidate.textbook(rates)
            opt_state = tx.init(jax.tree.map(lambda x: x[0], before))
            if float64:
                opt_state = jax.tree.map(_float64, opt_state)
            if first == 0:
                opt_state = about_to_fall(opt_state, candidate.schedule)

            def step(opt_state, given):
                params, (grads, loss, eval_loss, _) = given
                after, new = _updated(tx, params, opt_state, grads, loss, eval_loss)
                return same_dtypes(new, opt_state), optax.tree.sub(after, params)

            return jax.lax.scan(step, opt_state, (before, problem))[1]

        return jax.lax.map(one, rates)

    with on_cpu(float64):
        given = jax.tree.map(lambda x: x[first:], (before, problem))
        return jax.device_get(run(*given, np.asarray(rates)[:, first:]))
