"""Columns of classes in which nothing but classes that exist is let through."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from runner.data.dataset import MemorySplit, Split
from runner.errors import ConfigError


def labelled(
    split: Split, classes: Mapping[str, int], where: str, *, drop: bool | None
) -> Split:
    """`split` with nothing but classes that exist in its columns of classes.

    Args:
        split: A `MemorySplit` is checked at once, another when it is read.
        classes: The number of classes of each such column.
        where: The split in words, for the message.
        drop: Leave out the examples with other numbers instead of refusing them. None:
            these data have no setting for that.

    Raises:
        ConfigError: there are such examples, with their number and the way out.
    """
    if not classes:
        return split
    if drop:
        kept = np.flatnonzero(_in_range(_labels(split, classes), classes))
        if len(kept) == len(split):
            return split
        if isinstance(split, MemorySplit):
            return MemorySplit(split.rows(kept))
        return _Part(split, kept)
    if isinstance(split, MemorySplit):
        _refuse_others(split.columns, classes, where, drop)
        return split
    return _Checked(split, classes, where, drop)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """The examples `kept` of a split."""

    split: Split
    kept: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self.split.rows(self.kept[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class _Checked:
    """A split whose classes are checked as they are read."""

    split: Split
    classes: Mapping[str, int]
    where: str
    drop: bool | None

    def __len__(self) -> int:
        return len(self.split)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = self.split.rows(indices)
        _refuse_others(rows, self.classes, self.where, self.drop)
        return rows


def _labels(split: Split, names: Collection[str]) -> dict[str, np.ndarray]:
    parts = [
        split.rows(np.arange(start, min(start + 1024, len(split))))
        for start in range(0, len(split), 1024)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _in_range(columns: Mapping[str, np.ndarray], classes: Mapping[str, int]) -> Any:
    """bool `[n]`: whether all numbers of an example exist."""
    good: Any = True
    for name, size in classes.items():
        column = columns[name].reshape(len(columns[name]), -1)
        good = good & ((column >= 0) & (column < size)).all(axis=1)
    return good


def _refuse_others(
    columns: Mapping[str, np.ndarray],
    classes: Mapping[str, int],
    where: str,
    drop: bool | None,
) -> None:
    ways = "Choose another split, or leave them out with data.unlabelled=drop"
    if drop is None:
        ways = "Correct or leave out these examples, or the number in data.classes"
    for name, size in classes.items():
        bad = int(np.sum(~_in_range(columns, {name: size})))
        if bad:
            raise ConfigError(
                f"{where}: {bad} {'example has' if bad == 1 else 'examples have'} a "
                f"{name} that is not from 0 to {size - 1}, such as the -1 of an "
                f"unknown one. {ways}"
            )
