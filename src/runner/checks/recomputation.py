"""Calls of a run computed a second time by another pipeline, as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks.evidence import Distances
from runner.core import feed
from runner.core.pipeline import TrainState
from runner.core.step import Carry, evaluated_params
from runner.data.transforms import Transform, transformed
from runner.errors import ConfigError, Refused
from runner.tasks.task import Task, sums
from runner.trees import is_key, kinds


def matched(live: Any, shapes: Any) -> Any | None:
    """The part of `live` whose leaves are like those of `shapes`, in their structure.

    A user's pipeline may keep a counter beside the optimizer's state, and nnx keeps
    lists as dicts. None if there is no such part.
    """
    structure, wanted = jax.tree.structure(shapes), kinds(shapes)

    def search(node: Any) -> list[Any] | None:
        leaves = jax.tree.leaves(node)
        if kinds(node) == wanted:
            return leaves
        inner = jax.tree.leaves(node, is_leaf=lambda part: part is not node)
        if len(leaves) <= len(wanted) or inner == leaves:
            return None
        return next((found for part in inner if (found := search(part))), None)

    found = search(live) if wanted else []
    return None if found is None else jax.tree.unflatten(structure, found)


def adapted(carry: Carry, shapes: Carry, sharding: Any) -> tuple[Carry, bool]:
    """A live carry in the structure of `shapes`, the reference's.

    Returns:
      it, and whether all of it is live: without an optimizer state like the
      reference's it has zeros, placed as `sharding`.

    Raises:
      Refused: parameters or model state are not the model's.
    """
    state, wanted = carry.state, shapes.state
    params = matched(state.params, wanted.params)
    model_state = matched(state.model_state, wanted.model_state)
    if params is None or model_state is None:
        raise Refused(
            "verify: the pipeline's parameters and model state aren't those of its "
            "model, so it can't be checked. (verify=false trains anyway)"
        )
    opt_state = matched(state.opt_state, wanted.opt_state)
    is_whole = opt_state is not None
    if not is_whole:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted.opt_state)
        opt_state = jax.device_put(zeros, sharding)
    average = carry.average
    if average is not None:
        average = matched(average, wanted.params)
    return Carry(TrainState(params, model_state, opt_state), average), is_whole


def outputs(predict: Callable, task: Task, transforms: Sequence[Transform]) -> Callable:
    """The outputs of a batch, and what changes them, or metrics, and must not.

    Returns:
      (carry, columns, batches) -> (size, moved), for the first of the evaluation's
      `batches`. `moved` is how far, in a batch whose second half is the first the
      other way round, the outputs of the first half are, beside these "others", and
      those of the second, in their new "places". Then there are, for the sums of each
      metric over the first half, how far they move if the second isn't there, instead
      of not counted ("padding"), and how large they are ("sums").
    """

    def call(carry, columns, batches):
        batch = feed.batch(columns, {k: v[0] for k, v in batches.items()})
        is_example = batch.pop(feed.IS_EXAMPLE)
        size = len(is_example)
        half = size // 2
        state = carry.state._replace(params=evaluated_params(carry))

        def evaluated(batch):
            batch = transformed(transforms, batch, None)
            return predict(state, task.inputs(batch)), batch

        found, batch_found = evaluated(batch)
        others, _ = evaluated(jax.tree.map(_exchanged, batch))

        def is_each(x):
            return x.shape[:1] == (size,)

        def moved(part):
            def of(one, other):
                return _distance(one[:half], part(other)) if is_each(one) else 0.0

            return jax.tree.map(of, found, others)

        def metrics(count, length):
            """Sums of the first `count` examples, in a batch of `length`."""
            outputs, rows = jax.tree.map(
                lambda x: x[:length] if is_each(x) else x, (found, batch_found)
            )
            is_counted = (is_example & (np.arange(size) < count))[:length]
            return sums(task, outputs, rows, is_counted).metrics

        padded = metrics(half, size)
        try:
            alone = metrics(half, half)
        except (TypeError, ValueError, ConfigError):  # of examples in pairs, say
            alone = padded
        # A sum that happens to be near 0 may be so by rounding; half of it seldom is.
        parts = jax.tree.map(_size, (padded, metrics(half // 2, size)))
        return jax.tree.map(_size, found), {
            "others": moved(lambda x: x[:half]),
            "places": moved(lambda x: x[half : 2 * half][::-1]),
            "padding": jax.tree.map(_distance, padded, alone),
            "sums": jax.tree.map(jnp.maximum, *parts),
        }

    return call


def _exchanged(rows: jax.Array) -> jax.Array:
    """`rows` whose second half is the first, the other way round."""
    half = len(rows) // 2
    return jnp.concatenate([rows[:half], rows[:half][::-1], rows[2 * half :]])


def distances(live: Any, other: Any, before: Any) -> Distances:
    """How far `live` is from `other`, and from `before`, leaf by leaf; to be jitted.

    In one program: on several devices of a CPU, sums of two that are under way at once
    may wait for each other for ever.
    """
    off, moved = (jax.tree.map(_distance, live, tree) for tree in (other, before))
    return Distances(off, moved, jax.tree.map(_size, live))


def _distance(one: jax.Array, other: jax.Array) -> jax.Array:
    """The norm of a difference. NaN equals NaN, and infinity itself."""
    one, other = _real(one), _real(other)
    same = (one == other) | (jnp.isnan(one) & jnp.isnan(other))
    return _norm(jnp.where(same, 0, one - other))


def _size(x: jax.Array) -> jax.Array:
    return _norm(_real(x))


def _real(x: jax.Array) -> jax.Array:
    if is_key(x):
        x = jax.random.key_data(x)
    return x.astype(jnp.float32)


def _norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm, also of numbers whose squares would be infinite."""
    largest = jnp.max(jnp.abs(x), initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def shaken(carry: Carry, number: float, share: float) -> Carry:
    """`carry` with each parameter, and its average, changed by up to `share` of it.

    Other numbers give other changes.
    """

    given = carry.state.params, carry.average
    params, average = _shaken(given, np.float32(number), np.float32(share))
    return Carry(carry.state._replace(params=params), average)


@jax.jit
def _shaken(tree: Any, number: Any, share: Any) -> Any:
    return jax.tree.map(lambda x: _shaken_leaf(x, number, share), tree)


def _shaken_leaf(x: jax.Array, number: Any, share: Any) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    # Of its position: float32 counts so far. A sine is random enough.
    at = 1 + jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape) % 9973
    return (x * (1 + share * jnp.sin(at * number))).astype(x.dtype)
