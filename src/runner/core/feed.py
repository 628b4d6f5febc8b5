"""Feeding the devices: row numbers of columns held there, or whole batches."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from runner.core.mesh import Mesh
from runner.data.dataset import (
    Dataset,
    MemorySplit,
    Split,
    eval_indices,
    normalize,
    train_batches,
)
from runner.data.order import Order

# The batches of one call are sent together. In device mode they are row numbers.
SENT_BYTES = 16 * 2**20


def steps_that_fit(dataset: Dataset, most: int) -> int:
    """The number of steps whose batches one call can send, at most `most`."""
    if dataset.mode == "device":
        return most
    rows = dataset.train.rows(np.zeros(dataset.batch_size, int))
    return max(1, min(most, SENT_BYTES // sum(v.nbytes for v in rows.values())))


class DeviceData(NamedTuple):
    """In device mode, all columns of both splits on every device; otherwise nothing."""

    train: dict[str, jax.Array]
    eval: dict[str, jax.Array]


def device_data(dataset: Dataset, mesh: Mesh) -> DeviceData:
    """Copy the columns of both splits, in device mode, to the devices of `mesh`."""
    return DeviceData(
        *(_columns(dataset, s, mesh) for s in (dataset.train, dataset.eval))
    )


def _columns(dataset: Dataset, split: Split, mesh: Mesh) -> dict[str, jax.Array]:
    if dataset.mode != "device":
        return {}
    assert isinstance(split, MemorySplit)
    if jax.process_count() == 1:
        return jax.device_put(split.columns, mesh.replicated)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(mesh.replicated, x, x.shape),
        split.columns,
    )


def column_shapes(dataset: Dataset, split: Split) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the columns of `DeviceData`, without copying anything."""
    if dataset.mode != "device":
        return {}
    assert isinstance(split, MemorySplit)
    return jax.eval_shape(lambda columns: columns, split.columns)


def batch_at(dataset: Dataset, columns: dict, batches: dict, i) -> dict[str, jax.Array]:
    """Batch `i` of `batches`, normalized. For use inside a compiled step."""
    batch = {name: value[i] for name, value in batches.items()}
    if columns:
        rows = batch.pop("rows")
        batch |= {name: column[rows] for name, column in columns.items()}
    return normalize(dataset, batch)


def example(dataset: Dataset) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch as a model gets it."""
    rows = dataset.train.rows(np.zeros(dataset.batch_size, int))
    return jax.eval_shape(lambda batch: normalize(dataset, batch), rows)


class TrainFeed:
    """The training batches of one run, or of several, from step `start` on.

    Args:
      dataset: the same for all runs.
      orders: one for each run; several require the data to be on the devices.
      mesh: says which devices read which part of a batch.
      capacity: the most batches that are taken at a time.
      start: the number of steps already done.
      has_members: whether batches have a leading member axis.
    """

    def __init__(
        self,
        dataset: Dataset,
        orders: Sequence[Order],
        mesh: Mesh,
        capacity: int,
        start: int,
        has_members: bool = False,
    ):
        self._orders = orders
        self._mesh = mesh
        self._capacity = capacity
        self._step = start
        self._has_members = has_members
        self._rows = mesh.rows(orders[0].batch_size)
        self._host_batches = None
        if dataset.mode != "device":
            self._host_batches = train_batches(dataset, orders[0], start, self._rows)

    def take(self, count: int) -> dict[str, jax.Array]:
        """The next `count` batches [capacity, batch_size, ...]; the rest is padding."""
        if self._host_batches is None:
            taken = {"rows": self._indices(count)}
        else:
            batches = _stack([next(self._host_batches) for _ in range(count)])
            taken = _padded(batches, self._capacity)
        self._step += count
        return self._mesh.put(taken, self._mesh.batches, self._orders[0].batch_size)

    def _indices(self, count: int) -> np.ndarray:
        # Runs of one seed have one order.
        rows = {
            order: order.indices(self._step, count)[:, self._rows]
            for order in dict.fromkeys(self._orders)
        }
        width = len(next(iter(rows.values()))[0])
        padded = np.zeros((len(self._orders), self._capacity, width), np.int32)
        padded[:, :count] = [rows[order] for order in self._orders]
        return padded if self._has_members else padded[0]


def eval_feed(
    dataset: Dataset, mesh: Mesh, capacity: int
) -> Callable[[], Iterable[dict]]:
    """A function that gives one pass over the evaluation split.

    Its arrays are [capacity, batch_size, ...]. Batches that only fill the last call
    have an all-zero `mask`.
    """
    if dataset.mode != "device":
        return lambda: _eval_batches(dataset, mesh, capacity)
    # Row numbers of columns that are on the devices: sent once.
    rows = functools.cache(lambda: list(_eval_batches(dataset, mesh, capacity)))
    return rows


def _eval_batches(dataset: Dataset, mesh: Mesh, capacity: int) -> Iterator[dict]:
    own = mesh.rows(dataset.batch_size)
    rows, mask = (array[:, own] for array in eval_indices(dataset))
    for start in range(0, len(rows), capacity):
        taken = {"rows": rows[start : start + capacity]}
        if dataset.mode != "device":
            taken = _stack([dataset.eval.rows(r) for r in taken["rows"]])
        taken["mask"] = mask[start : start + capacity]
        padded = _padded(taken, capacity)
        yield mesh.put(padded, mesh.eval_batches, dataset.batch_size)


def train_shapes(dataset: Dataset, capacity: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `TrainFeed.take` returns."""
    one = {"rows": np.zeros(dataset.batch_size, np.int32)}
    if dataset.mode != "device":
        one = dataset.train.rows(one["rows"])
    return jax.eval_shape(
        lambda batch: {k: jnp.stack([v] * capacity) for k, v in batch.items()}, one
    )


def eval_shapes(dataset: Dataset, capacity: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `eval_feed` yields."""
    mask = jax.ShapeDtypeStruct((capacity, dataset.batch_size), jnp.float32)
    return train_shapes(dataset, capacity) | {"mask": mask}


def _stack(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([b[name] for b in batches]) for name in batches[0]}


def _padded(taken: dict[str, np.ndarray], capacity: int) -> dict[str, np.ndarray]:
    padded = {}
    for name, value in taken.items():
        padded[name] = np.zeros((capacity, *value.shape[1:]), value.dtype)
        padded[name][: len(value)] = value
    return padded
