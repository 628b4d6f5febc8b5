"""Training steps and evaluation batches, as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from runner.core import feed
from runner.core.optimizers import evaluation_params
from runner.core.pipeline import Pipeline, TrainState, same_dtypes
from runner.core.schedules import plateau_scale
from runner.data.transforms import Transform, transformed
from runner.tasks.task import Task, mean, numbers, sums

# Of a row, beside the loss and the metrics.
ROW_NAMES = ("learning_rate", "grad_norm", "update_norm")
_TRANSFORMS = 2**31  # folded into a step's key; microbatches fold in smaller numbers


class Carry(NamedTuple):
    """The state passed from step to step. `average` is the parameters' EMA, or None."""

    state: TrainState
    average: Any


class Values(NamedTuple):
    """The numbers of a run that are arguments of its program, not constants in it.

    Attributes:
      key: for dropout; each step folds its number in.
      hyperparameters: the optimizer's float arguments, by name.
      ema_decay: the decay of the parameters' average; unused without one.
    """

    key: Any
    hyperparameters: dict[str, Any]
    ema_decay: Any


def init(pipeline: Pipeline, averaging: bool) -> Callable:
    """(key, learning_rate, hyperparameters) -> Carry."""

    def init(key, learning_rate, hyperparameters):
        state = pipeline.init(key, learning_rate, hyperparameters)
        # A copy, because both are donated to the first step.
        return Carry(state, jax.tree.map(jnp.copy, state.params) if averaging else None)

    return init


def train_step(
    pipeline: Pipeline,
    task: Task,
    transforms: Sequence[Transform],
    microbatches: int,
    axis: str | None = None,
) -> Callable:
    """(carry, batch, step, learning_rate, logged, eval_loss, values) -> (carry, row).

    A row is what metrics.jsonl records of the step, `train/loss` and so on, as scalars;
    its norms are 0 unless the step is `logged` or a loss isn't finite. `eval_loss` is
    the latest evaluation's, inf if none came since the step before. `axis` names
    the axis of `jax.vmap`, so that its members compute norms at the same steps: where
    a condition differs between members, `vmap` always computes both branches.
    """
    gradients = _accumulated(pipeline.gradients, microbatches)

    def step(carry, batch, step, learning_rate, logged, eval_loss, values):
        state = carry.state
        key = jax.random.fold_in(values.key, step)
        batch = transformed(transforms, batch, jax.random.fold_in(key, _TRANSFORMS))
        total, grads, model_state = gradients(state, batch, key)
        loss = mean(total.loss, total.weight)

        def loss_fn(params):
            found = gradients(state._replace(params=params), batch, key)[0]
            return mean(found.loss, found.weight)

        new = pipeline.apply_gradients(
            state,
            grads,
            loss,
            learning_rate,
            values.hyperparameters,
            loss_fn,
            eval_loss,
        )
        new = same_dtypes(new._replace(model_state=model_state), state)
        average = carry.average
        if average is not None:
            evaluated = evaluation_params(new.opt_state, new.params)
            average = optax.incremental_update(evaluated, average, 1 - values.ema_decay)
        bad = ~jnp.isfinite(loss)
        if axis:
            bad = jax.lax.pmax(bad.astype(jnp.int32), axis) > 0
        grad_norm, update_norm = _norms(logged | bad, grads, state.params, new.params)
        row = {
            **numbers(task, total),
            "learning_rate": learning_rate * plateau_scale(new.opt_state),
            "grad_norm": grad_norm,
            "update_norm": update_norm,
        }
        return Carry(new, average), {f"train/{k}": v for k, v in row.items()}

    return step


def evaluated_params(carry: Carry) -> Any:
    """The parameters that an evaluation uses, maybe an average."""
    if carry.average is not None:
        return carry.average
    return evaluation_params(carry.state.opt_state, carry.state.params)


def eval_step(
    pipeline: Pipeline, task: Task, transforms: Sequence[Transform]
) -> Callable:
    """(carry, batch) -> `Sums` over the rows that the batch's IS_EXAMPLE counts."""

    def step(carry, batch):
        batch = dict(batch)
        is_example = batch.pop(feed.IS_EXAMPLE)
        batch = transformed(transforms, batch, None)
        state = carry.state._replace(params=evaluated_params(carry))
        outputs = pipeline.predict(state, task.inputs(batch))
        return sums(task, outputs, batch, is_example)

    return step


def _norms(wanted: Any, grads: Any, old: Any, new: Any) -> tuple[Any, Any]:
    """Gradient and update norms, or zeros unless `wanted`.

    On CPU they take a third of a small model's step, so they aren't always computed.
    """

    def norms():
        update = optax.tree.sub(new, old)
        return tuple(jnp.float32(optax.tree.norm(tree)) for tree in (grads, update))

    return jax.lax.cond(wanted, norms, lambda: (jnp.float32(0), jnp.float32(0)))


def _accumulated(gradients: Callable, microbatches: int) -> Callable:
    """`gradients` over `microbatches` equal parts of the batch, one after the other.

    Gradients count as much as the weights of their parts, so parts with different
    numbers of tokens, say, give those of the whole batch.
    """
    if microbatches == 1:
        return gradients

    def accumulated(state, batch, key):
        def part(i):
            # Every n-th example, so that each device keeps its share of every part.
            return {k: v.reshape(-1, microbatches, *v.shape[1:])[:, i] for k, v in
                    batch.items()}  # fmt: skip

        total = None
        for i in range(microbatches):
            found, grads, model_state = gradients(
                state, part(i), jax.random.fold_in(key, i)
            )
            state = state._replace(model_state=model_state)
            one = found, optax.tree.scale(found.weight, grads)
            total = one if total is None else optax.tree.add(total, one)
        assert total is not None
        found, grads = total
        grads = jax.tree.map(lambda grad: mean(grad, found.weight), grads)
        return found, grads, state.model_state

    return accumulated


def train_call(train_step: Callable, capacity: int) -> Callable:
    """Several steps as one call: see `runner.core.program.Program.train`."""

    def call(
        carry, columns, batches, learning_rates, logged, first_step, count, eval_loss,
        values,
    ):  # fmt: skip
        def take(i, carry):
            batch = feed.batch_at(columns, batches, i)
            # Only the first step after an evaluation gets its loss.
            new_loss = jnp.where(i == 0, eval_loss, jnp.inf)
            return train_step(
                carry,
                batch,
                first_step + i,
                learning_rates[i],
                logged[i],
                new_loss,
                values,
            )

        if capacity == 1:
            carry, row = take(0, carry)
            return carry, {name: value[None] for name, value in row.items()}

        def body(i, looped):
            carry, row = take(i, looped[0])
            rows = {name: looped[1][name].at[i].set(row[name]) for name in row}
            return carry, rows

        shapes = jax.eval_shape(take, 0, carry)[1]
        rows = {name: jnp.zeros(capacity, s.dtype) for name, s in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (carry, rows))

    return call


def eval_call(eval_step: Callable, task: Task, capacity: int) -> Callable:
    """Several evaluation batches as one call: see `Program.evaluate`."""

    def call(carry, columns, batches, totals):
        def body(i, totals):
            found = eval_step(carry, feed.batch_at(columns, batches, i))
            return jax.tree.map(jnp.add, totals, found)

        if capacity == 1:
            totals = body(0, totals)
        else:
            totals = jax.lax.fori_loop(0, capacity, body, totals)
        return totals, numbers(task, totals)

    return call
