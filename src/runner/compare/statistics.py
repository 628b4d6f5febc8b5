"""Paired statistics over seeds.

Runs with one seed share initial parameters and the order of the examples, so their
difference has less noise than the runs themselves. The seed is what is resampled: when
other factors are crossed, a seed's value is the mean over their cells, since runs of
one seed aren't independent of each other.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.inference import LEVEL, holm, interval, more_seeds, p_value

AGREEMENT = 1e-4  # relative: what rounding in another order of operations may do
_MOST_GROUPS = 5  # compared pair by pair; more are compared with the best only


class Group(NamedTuple):
    """The runs with one value of the factor, at their own best setting.

    Attributes:
      name: the value of the factor.
      setting: what its own tuning chose, such as "optimizer.learning_rate=0.01"; empty
        if nothing was tuned or if it differs between cells.
      runs: how many; `diverged` of them ended with a metric that isn't finite, which
        mean and interval leave out.
      values: the metric of each seed, {seed: mean over cells}.
      mean, low, high: over the seeds, with a 95 % bootstrap interval; NaN where there
        are too few.
    """

    name: str
    setting: str
    runs: int
    diverged: int
    values: dict[int, float]
    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two groups over the seeds that both have.

    Attributes:
      a, b: names of groups.
      cell: what else was the same, such as "framework=jax"; empty over everything.
      differences: a minus b of each seed, {seed: mean over cells}.
      difference, low, high: their mean, with a 95 % bootstrap interval.
      improvement: how often `a` was better, a tie counting half.
      p_value: of a paired t test; Holm's correction over all that are made is in it.
      verdict: "better" or "worse" (a than b), "agree" (every pair of runs, within 1e-4
        of its value), "not separable", "one seed" or "no pairs".
      more_seeds: how many more would be needed to separate them, 1001 for more than
        1000; None if none are.
    """

    a: str
    b: str
    cell: str
    differences: dict[int, float]
    difference: float
    low: float
    high: float
    improvement: float
    p_value: float
    verdict: str
    more_seeds: int | None


def groups(used: pl.DataFrame, higher_is_better: bool) -> tuple[Group, ...]:
    """A group for each value of the factor, the best mean first.

    Args:
      used: a row a run: `group`, `cell`, `setting` (texts), `seed` and `value`.
    """
    cells = _shared_cells(used)
    found = []
    for (name,), runs in used.group_by("group", maintain_order=True):
        fair = runs.filter(pl.col("cell").is_in(cells)) if cells else runs
        settings = runs["setting"].unique()
        values = _per_seed(fair)
        low, high = interval(list(values.values()))
        found.append(
            Group(
                name=str(name),
                setting=settings[0] if len(settings) == 1 else "",
                runs=runs.height,
                diverged=runs.height - int(runs["value"].is_finite().sum()),
                values=values,
                mean=_mean(values.values()),
                low=low,
                high=high,
            )
        )
    worst = -math.inf if higher_is_better else math.inf
    sign = -1 if higher_is_better else 1
    return tuple(
        sorted(found, key=lambda g: sign * (worst if math.isnan(g.mean) else g.mean))
    )


def _shared_cells(used: pl.DataFrame) -> list[str]:
    """A mean over other cells than the others' would compare cells, not groups."""
    count = used["group"].n_unique()
    in_all = used.group_by("cell").agg(pl.col("group").n_unique())
    return in_all.filter(pl.col("group") == count)["cell"].to_list()


def _per_seed(runs: pl.DataFrame) -> dict[int, float]:
    finite = runs.filter(pl.col("value").is_finite())
    means = finite.group_by("seed").agg(pl.col("value").mean()).sort("seed")
    return dict(means.rows())


def compare(
    used: pl.DataFrame, ranked: Sequence[Group], higher_is_better: bool, cells: bool
) -> tuple[Comparison, ...]:
    """Compare all pairs of groups, the better first; of many, with the best.

    Two groups are ranked only where the bootstrap interval of their paired difference
    excludes 0 and so does a paired t test at 5 %, corrected by Holm over all that are
    made: of many one would look different by chance, and the bootstrap alone is too
    sure of itself with few seeds (of three alike, it excludes 0 in a quarter of all
    cases). Only comparisons with the best can wrongly call the true best worse, so for
    that claim their number is the one to correct for.

    Args:
      used: as for `groups`.
      ranked: the groups, the best first.
      cells: within each cell rather than over all of them.
    """
    means = used.group_by("group", "cell", "seed").agg(pl.col("value").mean())
    values: dict[tuple[str, str], dict[int, float]] = {}
    for group, cell, seed, value in means.sort("seed").rows():
        values.setdefault((group, cell), {})[seed] = value
    names = sorted({cell for _, cell in values})
    tested = [
        (a, b, cell, _differences(values, a.name, b.name, [cell] if cells else names))
        for cell in (names if cells else [""])
        for a, b in itertools.combinations(ranked, 2)
        if len(ranked) <= _MOST_GROUPS or a is ranked[0]
    ]
    adjusted = holm([p_value(list(d.values())) for *_, (d, _) in tested])
    return tuple(
        _comparison(a, b, cell, pairs, p, len(tested), higher_is_better)
        for (a, b, cell, pairs), p in zip(tested, adjusted, strict=True)
    )


def _differences(
    values: Mapping[tuple[str, str], Mapping[int, float]],
    a: str,
    b: str,
    cells: Sequence[str],
) -> tuple[dict[int, float], float]:
    """{seed: mean difference over the cells that both have}; the largest relative."""
    found: dict[int, list[float]] = {}
    relative = 0.0
    for cell in cells:
        others = values.get((b, cell), {})
        for seed, value in values.get((a, cell), {}).items():
            other = others.get(seed, math.nan)
            if math.isfinite(difference := value - other):
                found.setdefault(seed, []).append(difference)
                size = max(abs(value), abs(other))
                relative = max(relative, abs(difference) / size if size else 0.0)
    return {seed: _mean(found[seed]) for seed in sorted(found)}, relative


def _comparison(
    a: Group,
    b: Group,
    cell: str,
    pairs: tuple[dict[int, float], float],
    p: float,
    tests: int,
    higher_is_better: bool,
) -> Comparison:
    differences, relative = pairs
    values = np.array(list(differences.values()))
    sign = 1 if higher_is_better else -1
    low, high = interval(values)
    verdict, more = "not separable", None
    if not values.size:
        verdict = "no pairs"
    elif relative <= AGREEMENT:
        verdict = "agree"
    elif values.size == 1:
        verdict = "one seed"
    elif (low > 0 or high < 0) and p < 1 - LEVEL:
        a_is_better = sign * low > 0
        verdict = "better" if a_is_better else "worse"
        # The pairs leave out what diverged, which is no reason to be called better.
        if (a if a_is_better else b).diverged:
            verdict = "not separable"
    if verdict == "not separable":
        more = more_seeds(values, tests)
    return Comparison(
        a=a.name,
        b=b.name,
        cell=cell,
        differences=differences,
        difference=_mean(values),
        low=low,
        high=high,
        improvement=_mean((sign * values > 0) + 0.5 * (values == 0)),
        p_value=p,
        verdict=verdict,
        more_seeds=more,
    )


def _mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan
