"""The batches of a data set, wherever its examples are."""

import sys
from collections.abc import Callable, Iterator

import numpy as np

from runner.data.dataset import Dataset, MemorySplit, Split
from runner.data.order import Order
from runner.data.transforms import Batch

_CHUNK = 256  # examples that are read at once when all are


def train_batches(
    dataset: Dataset, order: Order, start: int, part: slice | np.ndarray = slice(None)
) -> Iterator[Batch]:
    """Endless batches of the steps `start`, `start + 1`, ...; only `part` of each.

    They depend on `order` alone, not on `dataset.mode`. A stream reads ahead in
    threads, which keeps the order.
    """

    def batch_at(step: int) -> Batch:
        return dataset.train.rows(order.indices_at(step)[part])

    return _in_turn(dataset, batch_at, start, sys.maxsize)


def eval_batches(dataset: Dataset, name: str, rows: np.ndarray) -> Iterator[Batch]:
    """The batches `rows` `[batches, examples]` of the split `name`, in turn."""

    def batch_at(number: int) -> Batch:
        return dataset.splits[name].rows(rows[number])

    return _in_turn(dataset, batch_at, 0, len(rows))


def _in_turn(
    dataset: Dataset, batch_at: Callable[[int], Batch], start: int, stop: int
) -> Iterator[Batch]:
    if dataset.mode != "stream":
        return map(batch_at, range(start, stop))
    return _read_ahead(batch_at, start, stop, dataset.threads)


def in_memory(split: Split, threads: int | None = None) -> MemorySplit:
    """All examples of `split`, read one chunk after the other.

    Args:
        split: Read once.
        threads: As many chunks are read at the same time. None: without threads.
    """

    def chunk(number: int) -> Batch:
        start = number * _CHUNK
        return split.rows(np.arange(start, min(start + _CHUNK, len(split))))

    count = -(-len(split) // _CHUNK)
    chunks = map(chunk, range(count))
    if threads is not None:
        chunks = _read_ahead(chunk, 0, count, threads)
    columns: Batch = {}
    for number, rows in enumerate(chunks):
        for name, x in rows.items():
            if name not in columns:
                columns[name] = np.empty((len(split), *x.shape[1:]), x.dtype)
            columns[name][number * _CHUNK :][: len(x)] = x
    return MemorySplit(columns)


def _read_ahead(
    read: Callable[[int], Batch], start: int, stop: int, threads: int
) -> Iterator[Batch]:
    """`read(start)`, `read(start + 1)`, ... in order, by threads that are ahead."""
    import grain

    numbers = grain.MapDataset.range(start, stop).map(read)
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(4, threads)
    )
    return iter(numbers.to_iter_dataset(options))


def eval_indices(dataset: Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one pass over the split `name`, in order, as whole batches.

    Returns:
        indices: int32 `[batches, batch_size]`; the last batch is filled with row 0.
        is_example: bool, same shape; False on padding, True once for each example.
    """
    num_examples, batch_size = len(dataset.splits[name]), dataset.batch_size
    num_batches = -(-num_examples // batch_size)
    indices = np.arange(num_batches * batch_size, dtype=np.int32)
    is_example = indices < num_examples
    shape = (num_batches, batch_size)
    return (indices * is_example).reshape(shape), is_example.reshape(shape)
