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
FEW = 5  # runs
WIDE = 3  # half an interval, in published standard deviations as large as they may be


class Verdict(NamedTuple):
    """A cell and our own runs of it.

    Attributes:
      cell: what was published.
      step: the step of our runs that it is about.
      values: ours, one for each seed.
      outcome: "reproduced" if the interval contains 0, or the means are equal but for
        rounding; "undecided" if there is no interval, or one so wide that it would
        contain anything.
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
    if abs(difference) <= AGREEMENT * max(abs(ran.mean), abs(cell.mean)):
        return ran._replace(outcome="reproduced")
    if math.isnan(half):
        why = "neither side says how much its runs differ: give more seeds"
        return ran._replace(outcome="undecided", why=why)
    if abs(difference) > half:
        return ran._replace(outcome="differs")
    if cell.std and half > WIDE * largest(cell.std, cell.n):
        wide = f"{half / cell.std:.0f} published standard deviations"
        why = f"half its interval is {wide}, which would contain anything"
        return ran._replace(outcome="undecided", why=why)
    return ran._replace(outcome="reproduced")


def largest(std: float, n: int) -> float:
    """The upper limit of a standard deviation that was estimated from `n` values."""
    return std * math.sqrt((n - 1) / scipy.stats.chi2.ppf(1 - LEVEL, n - 1))


def half_width(
    std: float, n: int, their_std: float | None, their_n: int, cells: int
) -> float:
    """Half the interval of a difference of two means.

    Welch's (1947), which has both standard errors. The deviation between fewer than
    `FEW` runs says little: then runs of both sides are taken to spread alike
    (Student's). NaN if neither side says how much.

    Args:
      std, n: the standard deviation between our runs, and their number.
      their_std, their_n: the published ones.
      cells: how many such intervals are to hold together (Bonferroni).
    """
    sizes, stds = np.array([n, their_n]), np.array([std, their_std], float)
    known = np.isfinite(stds)
    if not known.any():
        return math.nan
    variances, degrees = np.square(stds), sizes - 1.0
    if known.all() and sizes.min() >= FEW and variances.any():
        squares = variances / sizes
        freedom = squares.sum() ** 2 / (squares**2 / degrees).sum()
    else:
        freedom = degrees[known].sum()
        pooled = (degrees * variances)[known].sum() / freedom
        squares = pooled / sizes
    level = 1 - (1 - LEVEL) / cells / 2
    return float(scipy.stats.t.ppf(level, freedom) * math.sqrt(squares.sum()))


def explain(
    verdicts: Sequence[Verdict],
    candidates: Mapping[Candidate, Sequence[Verdict]],
) -> list[Explanation]:
    """What each value of an open factor explains, the most first.

    Args:
      verdicts: of the table as it is.
      candidates: the same with each value.
    """
    # Of a cell that hasn't run as the table is, nothing is known that could get less.
    ran = [i for i, v in enumerate(verdicts) if v.outcome != "not run"]
    # The unit of each cell stays, or noisier runs would look nearer.
    units = {i: _unit(verdicts[i]) for i in ran}

    def misfit(found: Sequence[Verdict]) -> float:
        parts = [(found[i].difference / units[i]) ** 2 for i in ran]
        return sum(math.inf if math.isnan(part) else part for part in parts)

    before = misfit(verdicts)
    found = []
    for candidate, own in candidates.items():
        why = next((own[i].why for i in ran if own[i].outcome == "not run"), "")
        explained = 1 - misfit(own) / before if before else 0.0
        reproduced = sum(v.outcome == "reproduced" for v in own)
        found.append(Explanation(candidate, explained, reproduced, why))
    return sorted(found, key=lambda e: -e.explained)


def _unit(verdict: Verdict) -> float:
    """Half of a cell's interval, without which its difference doesn't count."""
    half = (verdict.high - verdict.low) / 2
    if math.isnan(half):
        return math.inf
    return max(half, AGREEMENT * abs(verdict.cell.mean)) or 1e-99
