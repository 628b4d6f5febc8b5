"""A data set as everything downstream sees it."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from runner.data.draws import Draws
from runner.data.order import Order
from runner.data.transforms import Transform, transformed
from runner.errors import ConfigError, did_you_mean

Mode = Literal["device", "memory", "stream"]
MODES: tuple[Mode, ...] = ("device", "memory", "stream")
_SPLIT = re.compile(r"train|(validation|test)(_\w+)?")


class Split(Protocol):
    """Examples with random access."""

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices` `[n]`, stacked: arrays `[n, ...]` by name."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class MemorySplit:
    """A split held in host memory: arrays `[len, ...]` by name."""

    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: column[indices] for name, column in self.columns.items()}


class Feature(NamedTuple):
    """One array of an example, as models and tasks get it.

    Attributes:
        shape: without the batch's dimension.
        dtype: its name, such as "float32".
        classes: integers go from 0 to `classes - 1`; None for other numbers.
    """

    shape: tuple[int, ...]
    dtype: str
    classes: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set, and what a step must know about them.

    Attributes:
        name: The data's readable name.
        splits: `train`, and any of `validation`, `test`, `validation_x`, `test_x`. What
            is chosen is chosen by `validation`; `test` is for the end of a run.
        classes: The number of classes, or the size of the vocabulary, of columns of
            integers that have one.
        batch_size: Examples of one step over all devices.
        mode: Where a step takes its batch from: "device" (columns copied to the
            accelerator once), "memory" (columns on the host; in both, the splits are
            `MemorySplit`) or "stream" (read from disk). It never changes which
            examples a step uses.
        transforms: What a compiled step does to a batch before the model gets it, in
            turn.
        files: Those that the examples are read from, if known. They identify data that
            are too large to be read for that: see `data_digest`.
        reshuffle: Whether each epoch has an order of its own, or all have the first.
        contents: A digest of all examples, if whoever made the data set has one.
        threads: As many batches of a stream are read at the same time.
        decode: What tokens say, as text, if they are of a text.
        drawn: None: an epoch is a permutation of the examples (see `Order`). A number:
            examples are drawn with replacement, and an epoch is as many (see `Draws`).

    Raises:
        ConfigError: a value is out of range, or the batch is larger than the data.
    """

    name: str
    splits: Mapping[str, Split]
    classes: Mapping[str, int]
    batch_size: int
    mode: Mode
    transforms: Sequence[Transform] = ()
    files: Sequence[Path] = ()
    reshuffle: bool = True
    contents: str | None = None
    # Reading a whole batch at once is about three times faster than grain's usual read
    # of single examples; two threads, because decoding holds the GIL.
    threads: int = 2
    drawn: int | None = None
    decode: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self):
        check_batch_size(self.batch_size)
        check_mode(self.mode, MODES)
        check_splits(self.splits)
        for name, split in self.splits.items():
            if not len(split):
                raise ConfigError(
                    f"The split {name} of data={self.name} is empty. "
                    f"Choose another data.splits.{name}."
                )
        if self.batch_size > len(self.train):
            raise ConfigError(
                f"data.batch_size={self.batch_size} is larger than the "
                f"{len(self.train)} training examples of data={self.name}, so there "
                "is not one full batch. Choose a smaller batch."
            )

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def evaluated(self) -> dict[str, Split]:
        """All splits but `train`."""
        return {k: split for k, split in self.splits.items() if k != "train"}

    @property
    def validations(self) -> list[str]:
        """The names of the splits that are evaluated during training."""
        return [name for name in self.evaluated if name.startswith("validation")]

    @property
    def tests(self) -> list[str]:
        """The names of the splits that are evaluated once, at the end."""
        return [name for name in self.evaluated if name.startswith("test")]

    def order(self, seed: int, limit_batches: int | None) -> Order:
        """The rows of each training step of a run; the arguments are `Order`'s."""
        given = self.batch_size, seed, limit_batches, self.reshuffle
        if self.drawn is None:
            return Order(len(self.train), *given)
        return Draws(len(self.train), *given, drawn=self.drawn)

    def validated_on_test(self) -> "Dataset":
        """The same with its test splits in the place of those for validation.

        Raises:
            ConfigError: there is no test split.
        """
        if not self.tests:
            raise ConfigError(
                f"validation=test needs a test split, and data={self.name} has none"
            )
        moved = {f"validation{n.removeprefix('test')}": n for n in self.tests}
        kept = {new: self.splits[old] for new, old in moved.items()}
        return dataclasses.replace(self, splits={"train": self.train, **kept})

    @functools.cached_property
    def features(self) -> dict[str, Feature]:
        """The arrays of one example after the transforms, by name.

        Raises:
            ConfigError: a transform can't be applied to this data.
        """
        import jax

        rows = self.train.rows(np.zeros(1, int))
        try:
            after = jax.eval_shape(
                lambda batch: transformed(self.transforms, batch, None), rows
            )
        except KeyError as error:
            raise ConfigError(
                f"data.transforms: {error} is not a column of data={self.name}, which "
                f"has {', '.join(rows)}"
            ) from error
        return {
            name: Feature(x.shape[1:], str(x.dtype), self.classes.get(name))
            for name, x in after.items()
        }


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


def check_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Refuses a value of `data.<key>` that isn't one of `choices`."""
    if value not in choices:
        raise ConfigError(
            f"data.{key}={value} must be one of {', '.join(choices)}."
            + did_you_mean(str(value), choices)
        )


def chosen_mode(
    mode: Mode | Literal["auto"], sizes_mb: Mapping[str, float], **limits_mb: float
) -> Mode:
    """`mode`, or for "auto" the first in which the data don't exceed their limit.

    Args:
        mode: As configured: see `Dataset`.
        sizes_mb: Of all splits, in MiB, in the modes "device" and "memory".
        limits_mb: The most that is copied to each device, or held in host memory; a
            stream has none.

    Raises:
        ConfigError: the data are larger than this machine's memory.
    """
    chosen: Mode = "stream"
    if mode != "auto":
        chosen = mode
    elif sizes_mb["device"] <= limits_mb["device"]:
        chosen = "device"
    elif sizes_mb["memory"] <= limits_mb["memory"]:
        chosen = "memory"
    needed = sizes_mb.get(chosen, 0) * 2**20
    way_out = "; data.mode=stream reads from disk"
    check_memory(f"data.mode={chosen}", needed, way_out=way_out)
    return chosen


def check_memory(
    what: str, needed: float, *, purpose: str = "", way_out: str = ""
) -> None:
    """Refuses what takes more bytes than this machine's memory has."""
    there = host_memory()
    if needed > there:
        raise ConfigError(
            f"{what} takes {needed / 1e9:,.0f} GB{purpose}, and there are "
            f"{there / 1e9:,.0f} GB of memory{way_out}"
        )


def host_memory() -> int:
    """The bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_splits(names: Collection[str]) -> None:
    """Refuses names of splits that don't say what they are for."""
    for name in names:
        if not _SPLIT.fullmatch(name):
            raise ConfigError(
                f"data.splits.{name} must be called train, validation or test, the "
                "last two maybe with a name of their own, such as validation_hard."
                + did_you_mean(name, ("train", "validation", "test"))
            )
    if "train" not in names:
        raise ConfigError("data.splits.train must be given")
