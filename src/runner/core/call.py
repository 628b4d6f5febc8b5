"""Several steps, or evaluation batches, as one call of a compiled program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from runner.core import feed
from runner.data.dataset import Dataset


def train_call(train_step: Callable, dataset: Dataset, capacity: int) -> Callable:
    def call(
        carry, columns, batches, learning_rates, logged, first_step, count, eval_loss,
        values,
    ):  # fmt: skip
        def take(i, carry):
            batch = feed.batch_at(dataset, columns, batches, i)
            # An evaluation is news to the first step after it only.
            news = jnp.where(i == 0, eval_loss, jnp.inf)
            return train_step(
                carry, batch, first_step + i, learning_rates[i], logged[i], news, values
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


def eval_call(eval_step: Callable, dataset: Dataset, capacity: int) -> Callable:
    def call(carry, columns, batches, totals):
        def body(i, totals):
            sums = eval_step(carry, feed.batch_at(dataset, columns, batches, i))
            return {name: totals[name] + sums[name] for name in totals}

        if capacity == 1:
            totals = body(0, totals)
        else:
            totals = jax.lax.fori_loop(0, capacity, body, totals)
        means = {k: v / totals["count"] for k, v in totals.items() if k != "count"}
        return totals, means

    return call
