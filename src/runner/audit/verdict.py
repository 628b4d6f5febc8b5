"""Whether a cell is reproduced, and which open factor explains what isn't."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats

from runner.audit.table import Candidate, Cell
from runner.compare.inference import LEVEL
from runner.compare.statistics import AGREEMENT

Outcome = Literal["reproduced", "differs", "undecided", "not run"]


class Verdict(NamedTuple):
    """A cell and our own runs of it.

    Attributes:
      cell: what was published.
      step: the step of our runs that it is about.
      values: ours, one for each seed.
      outcome: "reproduced" if the interval contains 0, or the means are equal but for
        rounding; "undecided" without an interval.
      difference: our mean minus the published one.
      low, high: its interval; those of all cells together hold at 95 %.
      why: a cell wasn't run or can't be decided.
    """

    cell: Cell
    step: int
    values: tuple[float, ...]
    outcome: Outcome
    difference: float
    low: float
    high: float
    why: str

    @property
    def mean(self) -> float:
        """Ours; NaN without runs."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def std(self) -> float:
        """Between our runs; NaN for fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


class Explanation(NamedTuple):
    """What a value of an open factor, alone, changes.

    Attributes:
      candidate: the factor and its value.
      explained: the share of the squared differences of all cells, each in units of its
        interval, that goes with it; below 0 if they grow.
      reproduced: how many cells are.
      why: its runs failed.
    """

    candidate: Candidate
    explained: float
    reproduced: int
    why: str


def judge(cell: Cell, step: int, found: Sequence[float | str], cells: int) -> Verdict:
    """The verdict on one of so many `cells`.

    Args:
      found: what each of our runs measured, or why it didn't.
    """
    nothing = Verdict(cell, step, (), "not run", math.nan, math.nan, math.nan, "")
    failed = [value for value in found if isinstance(value, str)]
    if failed:
        why = f"{len(failed)} of {len(found)} runs failed: {failed[0]}"
        return nothing._replace(why=why)
    values = tuple(value for value in found if not isinstance(value, str))
    if not all(map(math.isfinite, values)):
        return nothing._replace(why=f"a run's {cell.metric} is not finite")
    ran = nothing._replace(values=values)
    difference = ran.mean - cell.mean
    half = half_width(ran.std, len(values), cell.std, cell.n, cells)
    ran = ran._replace(
        difference=difference, low=difference - half, high=difference + half
    )
    scale = max(abs(ran.mean), abs(cell.mean))
    if abs(difference) <= max(AGREEMENT * scale, 0 if math.isnan(half) else half):
        return ran._replace(outcome="reproduced")
    if math.isnan(half):
        why = "neither side says how much its runs differ: give more seeds"
        return ran._replace(outcome="undecided", why=why)
    return ran._replace(outcome="differs")


def half_width(
    std: float, n: int, their_std: float | None, their_n: int, cells: int
) -> float:
    """Half the interval of a difference of two means, by Welch (1947).

    A single run says nothing of how runs differ; it is taken to be as one of the
    others. NaN if both sides have none but single runs.

    Args:
      std, n: the standard deviation between our runs, and their number.
      their_std, their_n: the published ones.
      cells: how many such intervals are to hold together (Bonferroni).
    """
    their_std = math.nan if their_std is None else their_std
    squares = np.array([std**2 / n, their_std**2 / their_n])
    degrees = np.array([n - 1, their_n - 1], float)
    is_known = ~np.isnan(squares)
    if not is_known.any():
        return math.nan
    if not is_known.all():
        one = np.nanmax([std, their_std])
        error, freedom = one * math.sqrt(1 / n + 1 / their_n), degrees[is_known][0]
    else:
        error = math.sqrt(squares.sum())
        if error == 0:
            return 0.0
        freedom = error**4 / np.sum(np.square(squares) / degrees)
    level = 1 - (1 - LEVEL) / cells / 2
    return float(scipy.stats.t.ppf(level, freedom) * error)


def explain(
    verdicts: Sequence[Verdict],
    candidates: Mapping[Candidate, Sequence[Verdict]],
) -> list[Explanation]:
    """What each value of an open factor explains, the most first.

    Args:
      verdicts: of the table as it is.
      candidates: the same with each value.
    """
    # The unit of each cell stays, or noisier runs would look nearer.
    units = [
        max((v.high - v.low) / 2, AGREEMENT * abs(v.cell.mean))
        if v.outcome in ("reproduced", "differs")
        else math.inf
        for v in verdicts
    ]

    def misfit(found: Sequence[Verdict]) -> float:
        parts = [(v.difference / u) ** 2 for v, u in zip(found, units, strict=True)]
        return sum(math.inf if math.isnan(part) else part for part in parts)

    before = misfit(verdicts)
    found = []
    for candidate, own in candidates.items():
        why = next((v.why for v in own if v.outcome == "not run"), "")
        explained = 1 - misfit(own) / before if before else 0.0
        reproduced = sum(v.outcome == "reproduced" for v in own)
        found.append(Explanation(candidate, explained, reproduced, why))
    return sorted(found, key=lambda e: -e.explained)
