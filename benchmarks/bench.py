"""Cases that compare ways, and what they share: see accelerator.py."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from timing import in_turn, median_ratio
from workloads import WORKLOADS, built

Ways = dict[str, Callable[[], float]]


class Row(NamedTuple):
    """One way of a case.

    Attributes:
      section, case, way: what was measured.
      micros: the median time of a step of one member.
      ratio: its time relative to that of the first way of the case.
      rounds: how often it was measured.
      said: what else was found.
    """

    section: str
    case: str
    way: str
    micros: float | None = None
    ratio: float | None = None
    rounds: int = 0
    said: str = ""


class Bench:
    """What all cases share.

    Args:
      small: whether models are small.
      repeats: the most rounds of a case.
      minutes: the time for all of it.
      folder: for files that are removed afterwards.
    """

    def __init__(self, small: bool, repeats: int, minutes: float, folder: Path):
        self.small, self.folder, self.repeats = small, folder, repeats
        self.until = time.monotonic() + 60 * minutes
        self.on_cpu = jax.default_backend() == "cpu"

    def steps(self, name: str) -> int:
        """The steps of a run of the workload `name`."""
        return WORKLOADS[name].steps[2 if self.small else self.on_cpu]

    def scans(self, name: str) -> bool:
        """Whether to loop by hand: on CPU, not over convolutions (jax #12868)."""
        return self.small or not (self.on_cpu and WORKLOADS[name].convolves)

    def built(self, name: str, framework: str, *more: str, part: int = 1) -> Any:
        """See `workloads.built`; of 1/`part` of the steps, but at least 8 if it has."""
        steps = max(min(8, self.steps(name)), self.steps(name) // part)
        return built(name, framework, steps, self.small, more)

    def rows(
        self, section: str, case: str, ways: Ways, count: dict[str, int], **how: Any
    ) -> list[Row]:
        """Time `ways`, each of which takes `count` steps of members."""
        seconds = in_turn(ways, self.repeats, until=self.until, **how)
        each = {w: [t / count[w] for t in times] for w, times in seconds.items()}
        first = next(iter(ways))
        return [
            Row(
                section, case, way, 1e6 * statistics.median(times),
                median_ratio(times, each[first]), len(times),
            )
            for way, times in each.items()
        ]  # fmt: skip


Case = tuple[str, Callable[[], list[Row]]]


def framework_of(name: str) -> str:
    """Pure JAX, in which a step is traced fastest, where the model has that form."""
    return "nnx" if name in ("cnn", "transformer") else "jax"
