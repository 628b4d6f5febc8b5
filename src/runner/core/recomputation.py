"""Calls of a run computed a second time by another pipeline, as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from runner.core import feed, step
from runner.core.evidence import Distances
from runner.core.step import evaluated_params
from runner.data.transforms import Transform, transformed
from runner.tasks.task import Task

# Of the numbers that noise is made from: float32 counts this far.
_PERIOD = 9973


def matched(live: Any, shapes: Any) -> Any | None:
    """The part of `live` whose leaves are like those of `shapes`, in their structure.

    A user's pipeline may keep a counter beside the optimizer's state, and nnx keeps
    lists as dicts. None if there is no such part.
    """
    structure, wanted = jax.tree.structure(shapes), _likeness(shapes)

    def search(node: Any) -> list[Any] | None:
        leaves = jax.tree.leaves(node)
        if _likeness(node) == wanted:
            return leaves
        inner = jax.tree.leaves(node, is_leaf=lambda part: part is not node)
        if len(leaves) <= len(wanted) or inner == leaves:
            return None
        return next((found for part in inner if (found := search(part))), None)

    found = search(live) if wanted else []
    return None if found is None else jax.tree.unflatten(structure, found)


def _likeness(tree: Any) -> list[tuple]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def steps(train_step: Callable, length: int) -> Callable:
    """Up to `length` steps from a copy of the live carry.

    Returns:
      (before, after, columns, batches, learning_rates, first_step, eval_loss, values,
      count, noise) -> (carry, rows, Distances). The first `count` of the `length`
      batches are used; `after` is the end of the live call. `noise` is (a number, how
      much of each parameter it may change): (0, 0) changes nothing.
    """

    def call(
        before, after, columns, batches, rates, first, eval_loss, values, count, noise
    ):
        params = jax.tree.map(lambda x: _shaken(x, *noise), before.state.params)
        begun = before._replace(state=before.state._replace(params=params))
        eval_losses = jnp.full(length, jnp.inf).at[0].set(eval_loss)

        def take(carry, given):
            i, batch, rate, eval_loss = given
            batch = feed.batch(columns, batch)
            new, row = train_step(carry, batch, first + i, rate, eval_loss, values)
            if length > 1:
                new = jax.tree.map(lambda n, o: jnp.where(i < count, n, o), new, carry)
            return new, row

        given = jnp.arange(length, dtype=jnp.int32), batches, rates, eval_losses
        end, rows = jax.lax.scan(take, begun, given)
        size = jax.tree.map(norm, after)
        return end, rows, Distances(apart(end, after), apart(before, after), size)

    return call


def evaluation(eval_step: Callable, task: Task, capacity: int) -> Callable:
    """The first call of an evaluation.

    Returns:
      (carry, columns, batches, totals, noise) -> numbers: see `Program.evaluation`, and
      `steps` for `noise`.
    """
    evaluate = step.eval_call(eval_step, task, capacity)

    def call(carry, columns, batches, totals, noise):
        params = jax.tree.map(lambda x: _shaken(x, *noise), evaluated_params(carry))
        # `average` is what an evaluation uses, if there is one.
        shaken = carry._replace(average=params)
        return evaluate(shaken, columns, batches, totals)[1]

    return call


def outputs(predict: Callable, task: Task, transforms: Sequence[Transform]) -> Callable:
    """The outputs of a batch, and those of its first half beside other examples.

    Returns:
      (carry, columns, batches) -> (outputs, their norms, mixed), for the first of the
      evaluation's `batches`: `mixed` is how far the outputs of the first half move.
    """

    def call(carry, columns, batches):
        batch = feed.batch(columns, {k: v[0] for k, v in batches.items()})
        size = len(batch.pop(feed.IS_EXAMPLE))
        inputs = task.inputs(transformed(transforms, batch, None))
        state = carry.state._replace(params=evaluated_params(carry))
        found = predict(state, inputs)
        others = predict(state, jax.tree.map(_exchanged, inputs))

        def moved(one, other):
            is_each = one.shape[:1] == (size,)
            half = size // 2
            return norm(_difference(one[:half], other[:half])) if is_each else 0.0

        return found, jax.tree.map(norm, found), jax.tree.map(moved, found, others)

    return call


def _exchanged(rows: jax.Array) -> jax.Array:
    """`rows` whose second half is the first, the other way round."""
    half = len(rows) // 2
    return jnp.concatenate([rows[:half], rows[:half][::-1], rows[2 * half :]])


def apart(one: Any, other: Any) -> Any:
    """The norm of the difference of two trees, leaf by leaf. NaN equals NaN."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    found = [norm(_difference(x, y)) for x, y in leaves]
    return jax.tree.unflatten(jax.tree.structure(one), found)


def _difference(one: jax.Array, other: jax.Array) -> jax.Array:
    one, other = _real(one), _real(other)
    same = (one == other) | (jnp.isnan(one) & jnp.isnan(other))
    return jnp.where(same, 0, one - other)


def _real(x: jax.Array) -> jax.Array:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return x.astype(jnp.float32)


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm, also of numbers whose squares would be infinite."""
    x = _real(x)
    largest = jnp.max(jnp.abs(x), initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def _shaken(x: jax.Array, number: jax.Array, share: jax.Array) -> jax.Array:
    """`x` with each element changed by up to `share` of it.

    A sine of its position is random enough, and compiles in no time.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    at = jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape) % _PERIOD
    return (x * (1 + share * jnp.sin((at + 1) * number))).astype(x.dtype)
