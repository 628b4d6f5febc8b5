"""The first place at which two trees of numbers differ."""

from typing import Any, NamedTuple

import jax
import numpy as np

from runner.checks.evidence import apart
from runner.trees import path_text

SMALL = 0.01  # a leaf whose numbers are this small beside the others' is rounding


class Difference(NamedTuple):
    """Where two trees of arrays [n, ...] differ first, and by how much.

    Attributes:
      first: the first one of the n.
      name: of the leaf and the place in it, such as "output/kernel[0, 2]".
      ours, wanted: the numbers there.
      places: all of the n at which they differ.
    """

    first: int
    name: str
    ours: float
    wanted: float
    places: np.ndarray


def first_difference(
    ours: Any, wanted: Any, sizes: Any, tolerance: float, slack: Any = None
) -> Difference | None:
    """Where `ours` leaves `wanted`, and there in the leaf that is furthest off.

    Args:
      ours, wanted: trees of arrays [n, ...].
      sizes: the same, of numbers that both were computed from and round like.
      tolerance: relative to the largest number of a leaf at an index.
      slack: the same tree; as much more is tolerated.
    """
    leaves = jax.tree.leaves_with_path(ours)
    trees = wanted, sizes, wanted if slack is None else slack
    others = list(zip(*map(jax.tree.leaves, trees), strict=True))
    if all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for (_, x), (y, *_) in zip(leaves, others, strict=True)
    ):
        return None
    largest = [_largest(y) for y, *_ in others]
    least = SMALL * np.max(largest, axis=0)
    ratios = []
    for (_, x), (y, size, more), most in zip(leaves, others, largest, strict=True):
        eps = np.finfo(np.float64 if x.dtype == np.float64 else np.float32).eps
        limit = tolerance * np.maximum(most, least) + 8 * eps * _largest(size)
        if slack is not None:
            limit += _largest(more)
        ratios.append(
            apart(x.reshape(len(x), -1), y.reshape(len(y), -1))
            / np.maximum(limit, np.finfo(np.float32).tiny)[:, None]
        )
    worst = np.stack([ratio.max(axis=1, initial=0) for ratio in ratios])
    bad = np.flatnonzero(worst.max(axis=0) > 1)
    if not bad.size:
        return None
    index, leaf = bad[0], worst[:, bad[0]].argmax()
    (path, x), (y, *_) = leaves[leaf], others[leaf]
    at = np.unravel_index(ratios[leaf][index].argmax(), x.shape[1:])
    place = f"[{', '.join(map(str, at))}]" if at else ""
    numbers = float(x[index][at]), float(y[index][at])
    return Difference(int(index), path_text(path) + place, *numbers, bad)


def _largest(x: np.ndarray) -> np.ndarray:
    """The largest finite magnitude at each index: [n]."""
    rows = np.abs(x.reshape(len(x), -1).astype(float))
    return np.where(np.isfinite(rows), rows, 0).max(axis=1, initial=0)
