"""Ways to do the same, timed in turn: other load on the machine affects all of them."""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(
    ways: Mapping[str, Callable[[], float]],
    repeats: int,
    *,
    warm: bool = True,
    until: float = math.inf,
) -> dict[str, list[float]]:
    """The seconds of each way in each round.

    Args:
      ways: functions that return the seconds that count, by their names.
      repeats: the number of rounds.
      warm: first call each way once, which compiles.
      until: no round but the first begins after this `time.monotonic()`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    if warm:
        for way in ways.values():
            way()
    for number in range(repeats):
        if number and time.monotonic() > until:
            break
        for name, way in ways.items():
            seconds[name].append(way())
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios in each round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def load() -> str:
    return "load     " + " ".join(f"{average:.2f}" for average in os.getloadavg())
