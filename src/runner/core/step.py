"""Training steps and evaluation batches, as pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental.xla_metadata import set_xla_metadata

from runner.core import feed, groups
from runner.core.optimizers import Optimizer, evaluation_params
from runner.core.pipeline import Pipeline, TrainState, same_dtypes
from runner.core.probe import Probe, joined
from runner.core.schedules import plateau_scale
from runner.core.warm_start import warmed
from runner.data.transforms import Transform, transformed
from runner.settings import PROBE
from runner.tasks.task import Task, exact, mean, numbers, sums

# Of a row, beside the loss and the metrics.
ROW_NAMES = ("learning_rate", "grad_norm", "update_norm")
NORMS = ("train/grad_norm", "train/update_norm")
_SMALL = 2**16
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


def init(pipeline: Pipeline, averaging: bool, optimizer: Optimizer) -> Callable:
    """(key, learning_rate, hyperparameters, start=None) -> Carry.

    `optimizer` is that of the pipeline; `start` a `WarmStart`.
    """

    def init(key, learning_rate, hyperparameters, start=None):
        state = pipeline.init(key, learning_rate, hyperparameters)
        if start is not None:
            tx = optimizer.transformation(learning_rate, hyperparameters)
            state = warmed(state, start, tx)
        # A copy, because both are donated to the first step.
        return Carry(state, jax.tree.map(jnp.copy, state.params) if averaging else None)

    return init


@dataclass(frozen=True)
class TrainStep:
    """A training step and its parts, which are traced only once.

    Attributes:
      prepared: (batch, step, values) -> (batch, key): the batch as a task gets it, and
        the step's key.
      gradients: (state, batch, key) -> (sums, grads, model_state), as in `Pipeline`.
      update: (carry, what `gradients` found, batch, key, learning_rate, eval_loss,
        values) -> (carry, row without NORMS).
      norms: (grads, parameters before, parameters after) -> NORMS of the row.
    """

    prepared: Callable
    gradients: Callable
    update: Callable
    norms: Callable

    def __call__(
        self,
        carry: Carry,
        batch: dict[str, jax.Array],
        step: Any,
        learning_rate: Any,
        eval_loss: Any,
        values: Values,
    ) -> tuple[Carry, dict[str, jax.Array]]:
        """The carry after the step, and its row.

        A row is what metrics.jsonl records of the step, `train/loss` and so on, as
        scalars. `eval_loss` is the latest evaluation's, inf if none came since the step
        before.
        """
        given = self.prepared(batch, step, values)
        found = self.gradients(carry.state, *given)
        new, row = self.update(carry, found, *given, learning_rate, eval_loss, values)
        return new, row | self.norms(found[1], carry.state.params, new.state.params)


def train_step(
    pipeline: Pipeline,
    task: Task,
    transforms: Sequence[Transform],
    microbatches: int,
    devices: int = 1,
) -> TrainStep:
    """The step of runs of which one has its state on so many `devices`."""
    gradients = _accumulated(pipeline.gradients, microbatches)
    norm = _joined_norm if devices == 1 else optax.tree.norm

    def prepared(batch, step, values):
        key = jax.random.fold_in(values.key, step)
        return training_batch(transforms, batch, key), key

    def update(carry, found, batch, key, learning_rate, eval_loss, values):
        state = carry.state
        total, grads, model_state = found
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
        rates = groups.rates(learning_rate, values.hyperparameters)
        scale = plateau_scale(new.opt_state)
        row = {
            **numbers(task, total),
            "learning_rate": learning_rate * scale,
            **{f"learning_rate/{k}": rate * scale for k, rate in rates.items()},
        }
        return Carry(new, average), {f"train/{k}": exact(v) for k, v in row.items()}

    def norms(grads, before, after):
        found = norm(grads), norm(optax.tree.sub(after, before))
        return {k: exact(v) for k, v in zip(NORMS, found, strict=True)}

    # Inlined, so that the rules of `choose` count the same operations.
    parts = (jax.jit(part, inline=True) for part in (gradients, update, norms))
    return TrainStep(prepared, *parts)


def training_batch(
    transforms: Sequence[Transform], batch: dict[str, Any], key: jax.Array
) -> dict[str, Any]:
    """`batch` as the task of a step gets it. `key` is that of the step."""
    return transformed(transforms, batch, jax.random.fold_in(key, _TRANSFORMS))


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


def _joined_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together."""
    leaves = [x.astype(jnp.float32).ravel() for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in with_small_joined(leaves)))


def with_small_joined(leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """`leaves`, of which the small ones are one flat array, which comes first.

    On CPU, XLA takes long for each operation, so that the norms of a small model would
    take a fifth of its step. On several devices this moves what they share.
    """
    small = [x.ravel() for x in leaves if x.size < _SMALL]
    parts = [jnp.concatenate(small)] if small else []
    return parts + [x for x in leaves if x.size >= _SMALL]


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


def of_block_ends(name: str) -> bool:
    """Whether a call gives a number of a row only for the last step of each block."""
    return name in NORMS or name.startswith(PROBE)


def train_call(
    train_step: TrainStep,
    block: int,
    blocks: int,
    looped: bool,
    devices: int,
    looking: tuple[Probe, Callable[[Any], Any]] | None = None,
) -> Callable:
    """Several steps as one call: see `Program.calls`.

    A call is a scan over blocks, and each of these a scan over all of its steps but the
    last. XLA leaves out the norms of those, whose results aren't used. Both lengths are
    constants, so an accelerator never waits for the host.

    With `looped`, which other calls of the run are, a call of one block is a loop too:
    XLA may round the same step differently outside of one.

    `looking` is the probe, and whether a step, counted from 1, is logged. It is a
    branch, which XLA compiles on its own, of steps that are; rows of others have zeros.

    What else used the gradients of the training could change how XLA fuses, and so
    rounds, them. At the ends of blocks on one CPU device, their norm is compiled apart,
    with a probe and without: so they are in memory in any case, and the branch may use
    them, too. Elsewhere it computes them again. That takes long after one step of a
    small model, of which nothing is in a cache any more, and on several `devices`, how
    results are split follows also from what uses them.
    """
    scan = _scan if looped else _once
    shared = block > 1 and devices == 1 and jax.default_backend() == "cpu"

    def call(carry, columns, batches, learning_rates, first_step, eval_loss, values):
        count = len(learning_rates)
        # Only the first step after an evaluation gets its loss.
        eval_losses = jnp.full(count, jnp.inf).at[0].set(eval_loss)
        steps = first_step + jnp.arange(count, dtype=jnp.int32)
        given = batches, steps, learning_rates, eval_losses

        def prepared(columns, sent, step, values):
            return train_step.prepared(feed.batch(columns, sent), step, values)

        def take_and_look(carry, given):
            sent, step, *numbers = given
            seen = carry.state, *prepared(columns, sent, step, values)
            found = train_step.gradients(*seen)
            new, row = train_step.update(carry, found, *seen[1:], *numbers, values)
            norms = _apart(train_step.norms) if shared else train_step.norms
            row |= norms(found[1], carry.state.params, new.state.params)
            if looking is None:
                return new, row
            probe, is_logged = looking

            def look(state, params, grads, *given):
                batch, key = prepared(*given)
                if not shared:
                    grads = train_step.gradients(state, batch, key)[1]
                updates = optax.tree.sub(params, state.params)
                return {PROBE: joined(probe(state.params, grads, updates, batch))}

            grads = found[1] if shared else None
            seen = carry.state, new.state.params, grads, columns, sent, step, values
            return new, row | _if(is_logged(step + 1), look, *seen)

        def plain(carry, given):
            sent, step, rate, eval_loss = given
            batch = feed.batch(columns, sent)
            carry, row = train_step(carry, batch, step, rate, eval_loss, values)
            return carry, {k: v for k, v in row.items() if k not in NORMS}

        def take_block(carry, given):
            before = jax.tree.map(lambda x: x[:-1], given)
            carry, rows = jax.lax.scan(plain, carry, before)
            carry, row = take_and_look(carry, jax.tree.map(lambda x: x[-1], given))
            whole = {k: jnp.append(v, row[k]) for k, v in rows.items()}
            ends = {k: row[k] for k in row.keys() - rows.keys()}
            return carry, whole | jax.tree.map(lambda x: x[None], ends)

        if block == 1:
            return scan(take_and_look, carry, given)
        given = jax.tree.map(lambda x: x.reshape(blocks, block, *x.shape[1:]), given)
        carry, rows = scan(take_block, carry, given)
        return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

    return call


def _if(condition: Any, function: Callable, *given: Any) -> Any:
    """The results of `function`, or zeros."""

    def zeros(*given):
        shapes = jax.eval_shape(function, *given)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(condition, function, zeros, *given)


def _apart(function: Callable) -> Callable:
    """`function`, with nothing in which XLA fuses anything outside of it."""

    def within(*given):
        with set_xla_metadata(inlineable=None):  # of what it calls, as usual
            return function(*given)

    def apart(*given):
        with set_xla_metadata(inlineable="false"):
            return jax.jit(within)(*given)

    return apart


def _scan(body: Callable, carry: Any, given: Any) -> tuple[Any, Any]:
    """`jax.lax.scan`, as a loop in any case.

    XLA makes no loop of a single turn, so that is the first of two.
    """
    if len(jax.tree.leaves(given)[0]) > 1:
        return jax.lax.scan(body, carry, given)

    def turn(carry, given):
        carry, row = body(carry, given)
        return carry, (carry, row)

    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), given)
    _, (carries, rows) = jax.lax.scan(turn, carry, twice)
    return jax.tree.map(lambda x: x[0], carries), jax.tree.map(lambda x: x[:1], rows)


def _once(body: Callable, carry: Any, given: Any) -> tuple[Any, Any]:
    """`jax.lax.scan` of one turn, without a loop."""
    carry, row = body(carry, jax.tree.map(lambda x: x[0], given))
    return carry, jax.tree.map(lambda x: x[None], row)


def eval_call(eval_step: Callable, task: Task, capacity: int) -> Callable:
    """Several evaluation batches as one call: see `Evaluation.call`."""

    def call(carry, columns, batches, totals):
        def body(i, totals):
            found = eval_step(
                carry, feed.batch(columns, {k: v[i] for k, v in batches.items()})
            )
            return jax.tree.map(jnp.add, totals, found)

        if capacity == 1:
            totals = body(0, totals)
        else:
            totals = jax.lax.fori_loop(0, capacity, body, totals)
        return totals, numbers(task, totals)

    return call
