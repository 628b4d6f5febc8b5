import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.data.order import Order

# Two epochs of Order(num_examples=10, batch_size=4, seed=0).
GOLDEN = [[4, 6, 2, 7], [3, 5, 9, 0], [9, 1, 3, 8], [7, 6, 0, 4]]


@st.composite
def orders(draw) -> Order:
    num_examples = draw(st.integers(1, 200))
    return Order(
        num_examples=num_examples,
        batch_size=draw(st.integers(1, num_examples)),
        seed=draw(st.integers(0, 2**32)),
        limit_batches=draw(st.none() | st.integers(1, 20)),
        reshuffle=draw(st.booleans()),
    )


@given(orders(), st.integers(0, 5))
def test_an_epoch_has_distinct_rows(order, epoch):
    steps = order.steps_per_epoch
    rows = order.indices(epoch * steps, steps).ravel()
    assert len(set(rows.tolist())) == steps * order.batch_size
    assert rows.min() >= 0
    assert rows.max() < order.num_examples


@given(orders(), st.integers(0, 1000), st.integers(0, 60))
def test_indices_stacks_indices_at(order, start, count):
    rows = order.indices(start, count)
    assert rows.shape == (count, order.batch_size)
    assert rows.dtype == np.int32
    for i in range(count):
        one = order.indices_at(start + i)
        assert one.dtype == np.int32
        np.testing.assert_array_equal(rows[i], one)


@given(orders(), st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_a_step_has_the_same_rows_whatever_was_asked_before(order, steps):
    expected = [order.indices_at(step).copy() for step in steps]
    order._permutations.clear()
    for step, rows in reversed(list(zip(steps, expected, strict=True))):
        np.testing.assert_array_equal(order.indices_at(step), rows)


@given(orders())
def test_steps_per_epoch_counts_whole_batches(order):
    whole = order.num_examples // order.batch_size
    limit = order.limit_batches
    assert order.steps_per_epoch == (whole if limit is None else min(whole, limit))


def test_the_rule_never_changes():
    """A new order would silently change every run that is resumed or replayed.

    If this fails, numpy or the rule has changed: keep the old rule for old runs.
    """
    order = Order(num_examples=10, batch_size=4, seed=0, limit_batches=None)
    assert order.indices(0, 4).tolist() == GOLDEN


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_repeats_the_first_batches_of_epoch_0(limit):
    unlimited = Order(100, 8, seed=3, limit_batches=None)
    limited = dataclasses.replace(unlimited, limit_batches=limit)
    first = unlimited.indices(0, limit)
    np.testing.assert_array_equal(limited.indices(0, 4 * limit), np.tile(first, (4, 1)))
    np.testing.assert_array_equal(limited.indices_at(5 * limit), first[0])


def test_without_new_orders_all_epochs_are_the_first():
    fresh = Order(20, 8, seed=3, limit_batches=None)
    order = dataclasses.replace(fresh, reshuffle=False)
    first = fresh.indices(0, 2)
    np.testing.assert_array_equal(order.indices(0, 6), np.tile(first, (3, 1)))
    assert not np.array_equal(fresh.indices(2, 2), first)


def test_a_limit_beyond_the_epoch_takes_all_its_batches_and_keeps_its_order():
    order = Order(20, 8, seed=3, limit_batches=50)
    assert order.steps_per_epoch == 2
    np.testing.assert_array_equal(order.indices(0, 2), order.indices(2, 2))


def test_epochs_seeds_and_tails_differ():
    order = Order(10, 4, seed=0, limit_batches=None)
    epochs = [order.indices(2 * epoch, 2).ravel() for epoch in range(20)]
    assert len({tuple(rows) for rows in epochs}) == 20
    tails = {frozenset(range(10)) - set(rows.tolist()) for rows in epochs}
    assert frozenset().union(*tails) == set(range(10))
    other = dataclasses.replace(order, seed=1)
    assert other.indices_at(0).tolist() != order.indices_at(0).tolist()


def test_rows_cant_be_changed_under_another_caller():
    order = Order(10, 4, seed=0, limit_batches=None)
    with pytest.raises(ValueError, match="read-only"):
        order.indices_at(0)[0] = 7
    order.indices(0, 1)[:] = 7
    assert order.indices_at(0).tolist() == GOLDEN[0]
