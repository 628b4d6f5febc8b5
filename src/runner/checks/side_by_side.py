"""A live pipeline and what it should compute, side by side on a toy model.

Functions to be compiled, whose arguments are all that runs of one program differ in.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.checks.live import like
from runner.checks.problem import EVERY, STEPS, Problem, about_to_fall, loss_at
from runner.checks.reference import Watched, reference
from runner.checks.toy import BATCH_SIZE, BATCHES, initial_values
from runner.core.compiling import QUICK
from runner.core.feed import transformed_example
from runner.core.optimizer_spec import OptimizerSpec, extra_arguments
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline, TrainState, same_dtypes
from runner.data.dataset import Dataset
from runner.data.transforms import transformed
from runner.errors import ConfigError
from runner.frameworks.precise import precise
from runner.tasks.task import Task

SEEDS = 3, 7  # of the initial values: the last words of two keys
SCALES = 0.03, 10.0  # of the parameters at which gradients are taken


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

    @property
    def groups(self) -> list[str]:
        """The names of its groups of parameters."""
        return [group.name for group in self.wanted.groups]

    def reference(self) -> Pipeline:
        """What `pipeline` should compute, by the form of the model that it uses."""
        example = transformed_example(self.dataset, BATCH_SIZE)
        parts = self.model.its_form, self.task, self.optimizer, example
        made = reference(self.model, *parts)
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


def trajectory(
    toy: Toy, rows: Any, keys: Any, problem: Any, rates: Any, hyperparameters: Any
) -> Trajectory:
    """Take a trajectory in the run's precision.

    Args:
      toy: the pipeline, and what it should be.
      rows: examples of the training split.
      keys: data of the PRNG keys of SEEDS, and of one for each batch.
      problem, rates: the inputs of the optimizer's steps.
      hyperparameters: those of the run.
    """
    live = toy.pipeline
    keys = jax.random.wrap_key_data(keys, impl="threefry2x32")
    initial = jax.lax.map(
        lambda key: live.init(key, rates[0], hyperparameters), keys[: len(SEEDS)]
    )
    initial = _with_structure(toy, initial, len(SEEDS))
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


def formula(toy: Toy, problem: Any, rates: Any, values: Any) -> Updates:
    """Update parameters in float64, with each of several hyperparameters."""
    live = toy.pipeline

    def variant(given):
        rates, values = given
        narrow = jax.tree.map(lambda x: x.astype(jnp.float32), values)
        with jax.enable_x64(False):
            words = jnp.array([0, SEEDS[0]], jnp.uint32)
            key = jax.random.wrap_key_data(words, impl="threefry2x32")
            start = _with_structure(toy, live.init(key, jnp.float32(1), narrow))
        wide = jax.tree.map(_float64, start)

        def taken(opt_state, widened):
            start = wide._replace(opt_state=opt_state)
            step, opt_states = _step(toy, live, rates, values, start)
            carry = start.params, widened(opt_states), start.model_state
            return jax.lax.scan(step, carry, (problem, rates))[1]

        try:
            return taken(wide.opt_state, lambda x: jax.tree.map(_float64, x))
        except (TypeError, ConfigError):
            # Some states must have float32, such as the sums of optax.MultiSteps.
            tx = toy.optimizer.transformation(rates[0], values)
            own = jax.eval_shape(tx.init, wide.params)
            if not _same_shapes(own, start.opt_state):
                raise
            return taken(_typed(start.opt_state, own), lambda x: x)

    return jax.lax.map(variant, (rates, values))


def _with_structure(toy: Toy, state: TrainState, *lead: int) -> TrainState:
    """`state`, of which the parameters must be those of the toy."""
    values = initial_values(np.uint32(0), np, toy.groups)
    wanted = jax.tree.map(lambda x: np.zeros((*lead, *x.shape)), values)
    params, model_state = like(state[:2], wanted, "init")
    return TrainState(params, model_state, state.opt_state)


def _float64(leaf: Any) -> Any:
    """`leaf`, in float64 if it was float32.

    Other types, such as bfloat16 moments, were asked for: they are checked too.
    """
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


def _same_shapes(one: Any, other: Any) -> bool:
    return [x.shape for x in jax.tree.leaves(one)] == [
        x.shape for x in jax.tree.leaves(other)
    ]


def _typed(tree: Any, like: Any) -> Any:
    """`tree` in the dtypes of the leaves of `like`, in their order."""
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, jax.tree.leaves(like), strict=True)
    return jax.tree.unflatten(structure, [x.astype(y.dtype) for x, y in pairs])


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

    @functools.partial(jax.jit, compiler_options=QUICK)
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
