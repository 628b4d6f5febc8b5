"""Feeding the devices: row numbers of columns held there, or whole batches."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from runner.core.keep import Keep
from runner.core.mesh import Mesh
from runner.data.batches import eval_batches, eval_indices, train_batches
from runner.data.dataset import Dataset, MemorySplit, Split
from runner.data.order import Order

# The batches of one call are sent together. In device mode they are row numbers.
SENT_BYTES = 16 * 2**20

# Names of our own among the arrays of batches that are sent, beside the data's columns:
ROWS = "_rows"  # numbers of rows of columns on the devices
IS_EXAMPLE = "_is_example"  # bool [B], in evaluation: False for padding


def steps_that_fit(dataset: Dataset, most: int) -> int:
    """The number of steps whose batches one call can send, at most `most`."""
    if dataset.mode == "device":
        return most
    rows = dataset.train.rows(np.zeros(dataset.batch_size, int))
    return max(1, min(most, SENT_BYTES // sum(v.nbytes for v in rows.values())))


class DeviceData(NamedTuple):
    """In device mode, all columns on every device; otherwise nothing.

    `eval` holds the evaluated splits one after the other, so that one compiled program
    evaluates them all.
    """

    train: dict[str, jax.Array]
    eval: dict[str, jax.Array]


def kept_data(dataset: Dataset, mesh: Mesh, keep: Keep) -> Callable[[], DeviceData]:
    """`device_data` when it is first needed; programs that share `keep` share it."""
    key = "device data", dataset, mesh
    return lambda: keep(key, lambda: device_data(dataset, mesh))


def device_data(dataset: Dataset, mesh: Mesh) -> DeviceData:
    """Copy the columns of all splits, in device mode, to the devices of `mesh`."""
    if dataset.mode != "device":
        return DeviceData({}, {})

    def put(columns: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        if jax.process_count() == 1:
            return jax.device_put(columns, mesh.replicated)
        make = jax.make_array_from_process_local_data
        return {k: make(mesh.replicated, x, x.shape) for k, x in columns.items()}

    evaluated = [_columns(split) for split in dataset.evaluated.values()]
    joined = {
        name: np.concatenate([columns[name] for columns in evaluated])
        for name in (evaluated[0] if evaluated else {})
    }
    return DeviceData(put(_columns(dataset.train)), put(joined))


def _columns(split: Split) -> dict[str, np.ndarray]:
    assert isinstance(split, MemorySplit)
    return split.columns


def column_shapes(dataset: Dataset) -> DeviceData:
    """Shapes of `DeviceData`, without copying anything."""
    if dataset.mode != "device":
        return DeviceData({}, {})
    train = jax.eval_shape(lambda columns: columns, _columns(dataset.train))
    size = sum(map(len, dataset.evaluated.values()))
    evaluated = {
        k: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for k, x in train.items()
    }
    columns: Any = (train, evaluated if size else {})  # shapes, not arrays
    return DeviceData(*columns)


def batch(columns: dict, sent: dict) -> dict[str, jax.Array]:
    """The batch that was `sent`, before its transforms; for use in a compiled step."""
    batch = dict(sent)
    if columns:
        rows = batch.pop(ROWS)
        batch |= {name: column[rows] for name, column in columns.items()}
    return batch


def example(dataset: Dataset) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch before its transforms."""
    rows = dataset.train.rows(np.zeros(dataset.batch_size, int))
    return jax.eval_shape(lambda batch: batch, rows)


def transformed_example(dataset: Dataset, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of `size` examples as a task gets it."""
    return {
        name: jax.ShapeDtypeStruct((size, *f.shape), f.dtype)
        for name, f in dataset.features.items()
    }


class TrainFeed:
    """The training batches of one run, or of several, from step `start` on.

    Args:
      dataset: the same for all runs.
      orders: one for each run; several require the data to be on the devices.
      mesh: says which devices read which part of a batch.
      start: the number of steps already done.
      has_members: whether batches have a leading member axis.
    """

    def __init__(
        self,
        dataset: Dataset,
        orders: Sequence[Order],
        mesh: Mesh,
        start: int,
        has_members: bool = False,
    ):
        self._orders = orders
        self._mesh = mesh
        self._step = start
        self._has_members = has_members
        self._rows = mesh.rows(orders[0].batch_size)
        self._host_batches = None
        if dataset.mode != "device":
            self._host_batches = train_batches(dataset, orders[0], start, self._rows)

    def take(self, count: int) -> dict[str, jax.Array]:
        """The next `count` batches [count, batch_size, ...]."""
        if self._host_batches is None:
            taken = {ROWS: self._indices(count)}
        else:
            taken = _stack([next(self._host_batches) for _ in range(count)])
        self._step += count
        return self._mesh.put(taken, self._mesh.batches, self._orders[0].batch_size)

    def _indices(self, count: int) -> np.ndarray:
        # Runs of one seed have one order.
        rows = {
            order: order.indices(self._step, count)[:, self._rows]
            for order in dict.fromkeys(self._orders)
        }
        if not self._has_members:
            return rows[self._orders[0]]
        return np.stack([rows[order] for order in self._orders])


def eval_feed(
    dataset: Dataset, mesh: Mesh, capacity: int
) -> Callable[[str], Iterable[dict]]:
    """A function that gives one pass over the split of a name.

    Its arrays are [capacity, batch_size, ...]. In batches that only fill the last call,
    IS_EXAMPLE is False everywhere.
    """
    if dataset.mode != "device":
        return lambda name: _eval_batches(dataset, name, mesh, capacity)
    # Row numbers of columns that are on the devices: sent once.
    return functools.cache(
        lambda name: list(_eval_batches(dataset, name, mesh, capacity))
    )


def _eval_batches(
    dataset: Dataset, name: str, mesh: Mesh, capacity: int
) -> Iterator[dict]:
    own = mesh.rows(dataset.batch_size)
    rows, is_example = (array[:, own] for array in eval_indices(dataset, name))
    names = list(dataset.evaluated)
    # Where the split begins in `DeviceData.eval`.
    first = sum(len(dataset.splits[each]) for each in names[: names.index(name)])
    batches = None if dataset.mode == "device" else eval_batches(dataset, name, rows)
    for start in range(0, len(rows), capacity):
        if batches is None:
            taken = {ROWS: rows[start : start + capacity] + np.int32(first)}
        else:
            taken = _stack(list(itertools.islice(batches, capacity)))
        taken[IS_EXAMPLE] = is_example[start : start + capacity]
        padded = _padded(taken, capacity)
        yield mesh.put(padded, mesh.eval_batches, dataset.batch_size)


def train_shapes(dataset: Dataset, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `TrainFeed.take` returns for a single run."""
    one = {ROWS: jax.ShapeDtypeStruct((dataset.batch_size,), jnp.int32)}
    if dataset.mode != "device":
        one = example(dataset)
    return {
        name: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
        for name, x in one.items()
    }


def eval_shapes(dataset: Dataset, capacity: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `eval_feed` yields."""
    is_example = jax.ShapeDtypeStruct((capacity, dataset.batch_size), jnp.bool_)
    return train_shapes(dataset, capacity) | {IS_EXAMPLE: is_example}


def _stack(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([b[name] for b in batches]) for name in batches[0]}


def _padded(taken: dict[str, np.ndarray], capacity: int) -> dict[str, np.ndarray]:
    padded = {}
    for name, value in taken.items():
        padded[name] = np.zeros((capacity, *value.shape[1:]), value.dtype)
        padded[name][: len(value)] = value
    return padded
