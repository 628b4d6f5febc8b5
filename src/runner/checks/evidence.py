"""Evidence of whether a run does what its configuration says."""

from typing import Any, NamedTuple

import numpy as np


class Seen(NamedTuple):
    """A call of a run, as it was: what it took, and what it gave.

    Attributes:
      start, stop: the steps done before and after it.
      member: the index of the run in a population, else 0.
      before, after: copies of the carry, of this member alone. `after` is None if it
        isn't needed.
      batches, eval_loss: what it was given, of all members.
      begun: the numbers after the first call of an evaluation, by the name of a split.
      rows: its rows, on the host, of this member alone.
    """

    start: int
    stop: int
    member: int
    before: Any
    after: Any
    batches: Any
    eval_loss: Any
    begun: dict[str, dict[str, Any]]
    rows: dict[str, Any]


class Distances(NamedTuple):
    """Euclidean norms for each leaf of a tree. NaN counts as equal to NaN.

    Attributes:
      off: of the difference between the live one and the other.
      moved: of the live one's change in the steps that are compared.
      size: of the live one.
    """

    off: Any
    moved: Any
    size: Any


class Series(NamedTuple):
    """A number of a run, and what it should be, at some steps: arrays [n]."""

    steps: np.ndarray
    live: np.ndarray
    other: np.ndarray


class Evidence(NamedTuple):
    """Some steps, and the same ones computed again.

    Attributes:
      start, stop: the steps done before and after them.
      numbers: by their names in a row.
      distances: of the carry after them; None if that can't be compared.
      noise: by how many rounding errors the parameters were changed, if they were.
    """

    start: int
    stop: int
    numbers: dict[str, Series]
    distances: Distances | None
    noise: float = 1.0


def apart(one: Any, other: Any) -> np.ndarray:
    """How far numbers are apart: infinitely if only one of two is finite.

    NaN is as far from NaN as infinity from itself: 0.
    """
    one, other = (np.asarray(x, float) for x in (one, other))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        off = np.abs(one - other)
    return np.where(same, 0, np.where(np.isnan(off), np.inf, off))
