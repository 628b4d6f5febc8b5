"""The operation at which what two forms of a model compute first differs."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from runner.parity.graph import Graph, Op


class Side(NamedTuple):
    """One form's part in a difference.

    Attributes:
      name: of the form.
      graph: of the function that differs.
      known: the values that the other form has too, and those that say nothing since
        their entries are all one number.
      op: the first operation whose result the other form hasn't, though it has all
        that goes in; None if there is none.
    """

    name: str
    graph: Graph
    known: set[int]
    op: Op | None


def part(
    ours: tuple[str, Graph],
    theirs: tuple[str, Graph],
    outputs: tuple[Iterable[int], Iterable[int]],
    tolerance: float,
) -> tuple[Side, Side]:
    """Where the two begin to compute other values.

    Only values are compared, wherever they are, so the forms may be built from other
    modules, do things in another order or transpose.

    Args:
      ours: a form's name and graph.
      theirs: the other's.
      outputs: the values of each that differ.
      tolerance: the relative difference that rounding makes.
    """
    sides = []
    for (name, graph), other, differ in (
        (ours, theirs[1], outputs[0]), (theirs, ours[1], outputs[1])
    ):  # fmt: skip
        known = _known(graph, other, tolerance)
        sides.append(Side(name, graph, known, _first(graph, known, differ)))
    return sides[0], sides[1]


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether two sorted arrays are equal up to a relative `tolerance`."""
    if a.size != b.size:
        return False
    middle = a.size // 2
    scale = max(np.abs(a[[0, -1]]).max(), np.abs(b[[0, -1]]).max()) if a.size else 0
    if a.size and abs(a[middle] - b[middle]) > tolerance * scale:
        return False  # as it mostly is
    return bool(np.abs(a - b).max(initial=0) <= tolerance * scale)


def _known(graph: Graph, other: Graph, tolerance: float) -> set[int]:
    by_size = defaultdict(list)
    for value in other.entries.values():
        by_size[value.size].append(value)
    return {
        number
        for number, value in graph.entries.items()
        if (value.size > 1 and value[0] == value[-1])
        or any(close(value, one, tolerance) for one in by_size[value.size])
    }


def _first(graph: Graph, known: set[int], outputs: Iterable[int]) -> Op | None:
    """The first operation with known inputs, going back from `outputs`."""
    waiting, seen, found = list(outputs), set(), []
    while waiting:
        number = waiting.pop()
        op = graph.producer.get(number)
        if number in seen or op is None or number not in graph.data:
            continue
        seen.add(number)
        unknown = [x for x in graph.read(op) if x not in known]
        if not unknown:
            found.append(op)
        waiting.extend(unknown)
    return min(found, key=lambda op: op.outputs, default=None)
