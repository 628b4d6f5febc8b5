"""A data set as everything downstream sees it, and its batches."""

import dataclasses
import itertools
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from runner.data.order import Order
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import jax

Mode = Literal["device", "memory", "stream"]
MODES: tuple[Mode, ...] = ("device", "memory", "stream")


class Split(Protocol):
    """Examples with random access."""

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` `[n]`, stacked.

        Returns:
            `"input"` `[n, *input_shape]` in the dtype of the source and, when there are
            labels, `"label"` int32 `[n]`.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class MemorySplit:
    """A split held in host memory: `columns["input"]`, and `["label"]` if labelled."""

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["input"])

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[indices] for name, column in self.columns.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training and an evaluation split, and what a step must know about them.

    `name` is the data's readable name. `input_shape` is the shape of one example.
    `num_classes` is None without labels. `batch_size` counts the examples of one step
    over all devices. `mode` says where a step takes its batch from: "device" (columns
    copied to the accelerator once), "memory" (columns on the host; in both, the splits
    are `MemorySplit`) or "stream" (read from disk). It never changes which examples a
    step uses. `mean` and `std`, in the units of the input, are used by `normalize`.

    Raises:
        ConfigError: a value is out of range, or the batch is larger than the data.
    """

    name: str
    train: Split
    eval: Split
    input_shape: tuple[int, ...]
    num_classes: int | None
    batch_size: int
    mode: Mode
    mean: float
    std: float

    def __post_init__(self):
        check_batch_size(self.batch_size)
        check_mode(self.mode, MODES)
        if not self.std > 0:
            raise ConfigError(f"data.std={self.std} must be greater than 0.")
        if self.batch_size > len(self.train):
            raise ConfigError(
                f"data.batch_size={self.batch_size} is larger than the "
                f"{len(self.train)} training examples of data={self.name}, so there "
                "is not one full batch. Choose a smaller batch."
            )
        if not len(self.eval):
            raise ConfigError(
                f"The evaluation split of data={self.name} is empty. "
                "Choose another data.eval_split."
            )


def check_batch_size(batch_size: int) -> None:
    """Refuses anything but a positive whole number, before the data is touched."""
    if type(batch_size) is not int or batch_size < 1:
        raise ConfigError(
            f"data.batch_size={batch_size!r} must be a whole number of at least 1."
        )


def check_mode(mode: str, modes: Collection[str]) -> None:
    """Refuses a mode that isn't one of `modes`, before the data is touched."""
    if mode not in modes:
        raise ConfigError(
            f"data.mode={mode!r} must be one of {', '.join(modes)}."
            + did_you_mean(str(mode), modes)
        )


def train_batches(
    dataset: Dataset, order: Order, start: int, part: slice | np.ndarray = slice(None)
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of the steps `start`, `start + 1`, ...; only `part` of each.

    They depend on `order` alone, not on `dataset.mode`. A stream reads ahead in
    threads, which keeps the order.
    """

    def batch_at(step: int) -> dict[str, np.ndarray]:
        return dataset.train.rows(order.indices_at(step)[part])

    if dataset.mode != "stream":
        return map(batch_at, itertools.count(start))
    import grain

    # Reading a whole batch at once is about three times faster than grain's usual
    # read of single examples; two threads, because decoding holds the GIL.
    steps = grain.MapDataset.range(start, sys.maxsize).map(batch_at)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(steps.to_iter_dataset(options))


def eval_indices(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one pass over the evaluation split, in order, as whole batches.

    Returns:
        indices: int32 `[batches, batch_size]`; the last batch is filled with row 0.
        mask: float32, same shape; 0 on padding, 1 exactly once for each example.
    """
    num_examples, batch_size = len(dataset.eval), dataset.batch_size
    num_batches = -(-num_examples // batch_size)
    indices = np.arange(num_batches * batch_size, dtype=np.int32)
    mask = indices < num_examples
    shape = (num_batches, batch_size)
    return (indices * mask).reshape(shape), mask.astype(np.float32).reshape(shape)


def eval_batches(dataset: Dataset) -> Iterator[dict[str, np.ndarray]]:
    """One pass over the evaluation split in order, every example exactly once.

    All batches have `batch_size` rows. `"mask"` float32 `[batch_size]` is 0 on the rows
    that only fill the last batch: weight every sum over examples with it.
    """
    for indices, mask in zip(*eval_indices(dataset), strict=True):
        yield dataset.eval.rows(indices) | {"mask": mask}


def normalize(
    dataset: Dataset, batch: "dict[str, jax.Array]"
) -> "dict[str, jax.Array]":
    """`batch` with `"input"` as float32 `(input - mean) / std`.

    For use inside a compiled step, so that bytes are moved, not floats.
    """
    import jax.numpy as jnp

    scaled = (batch["input"].astype(jnp.float32) - dataset.mean) / dataset.std
    return batch | {"input": scaled}
