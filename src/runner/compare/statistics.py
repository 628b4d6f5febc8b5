"""Paired statistics over seeds.

Runs with the same seed share initial parameters and the order of the examples, so their
difference has less noise than the runs themselves. Seeds are resampled, not runs, since
runs with the same seed aren't independent: if other factors are crossed, a seed's value
is the mean over their cells.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.inference import LEVEL, holm, interval, more_seeds, p_value

AGREEMENT = 1e-4  # relative; another order of operations may round this differently
_MOST_GROUPS = 5  # more are compared only with the best, not pair by pair


class Group(NamedTuple):
    """The runs with one value of the factor, at their own best setting.

    Attributes:
      name: the value of the factor.
      setting: what its own tuning chose, such as "optimizer.learning_rate=0.01"; empty
        if nothing was tuned or if it differs between cells.
      runs: how many; `diverged` of them ended without a finite metric, and mean and
        interval leave them out.
      values: the metric of each seed, {seed: mean over cells}.
      mean, low, high: over the seeds, with a 95 % bootstrap interval; NaN with too few.
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
      cell: such as "framework=jax"; empty for the comparison over all cells.
      differences: a minus b of each seed, {seed: mean over cells}.
      difference, low, high: their mean, with a 95 % bootstrap interval.
      improvement: the share of seeds for which `a` was better; a tie counts as half.
      p_value: of a paired t test, with Holm's correction over all comparisons.
      verdict: "better" or "worse" (a than b), "agree" (every pair of runs, within 1e-4
        of its value), "not separable", "one seed" or "no pairs".
      more_seeds: how many more would separate them, 1001 for more than 1000; None
        unless they are "not separable".
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

    @property
    def needed(self) -> str:
        """`more_seeds` as text, such as "about 17"; empty without a number."""
        more = self.more_seeds
        if more is None:
            return ""
        return "more than 1000" if more > 1000 else f"about {more}"


def groups(used: pl.DataFrame, higher_is_better: bool) -> tuple[Group, ...]:
    """A group for each value of the factor, the best mean first.

    Args:
      used: one row for each run: `group`, `cell`, `setting` (texts), `seed`, `value`.
    """
    # A group's mean over cells that others lack would compare cells, not groups.
    in_all = pl.col("group").n_unique().over("cell") == pl.col("group").n_unique()
    cells = used.filter(in_all)["cell"].unique().to_list()
    found = []
    for (name,), runs in used.group_by("group", maintain_order=True):
        fair = runs.filter(pl.col("cell").is_in(cells)) if cells else runs
        settings = runs["setting"].unique()
        finite = fair.filter(pl.col("value").is_finite())
        means = finite.group_by("seed").agg(pl.col("value").mean()).sort("seed")
        values = dict(means.rows())
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
    sign = -1 if higher_is_better else 1
    return tuple(sorted(found, key=lambda g: (math.isnan(g.mean), sign * g.mean)))


def compare(
    used: pl.DataFrame, ranked: Sequence[Group], higher_is_better: bool, cells: bool
) -> tuple[Comparison, ...]:
    """Compare all pairs of groups, the better first; many groups only with the best.

    Two groups are ranked only if the bootstrap interval of their paired difference
    excludes 0 and so does a paired t test at 5 %, with Holm's correction over all
    comparisons: among many, one would look different by chance. The bootstrap alone is
    too confident with few seeds (with three of identical groups, it excludes 0 in a
    quarter of all cases). Only comparisons with the best can wrongly call the true best
    worse, so for that claim it is their number that needs correction.

    Args:
      used: as for `groups`.
      ranked: the groups, the best first.
      cells: within each cell rather than over all of them.
    """
    means = used.group_by("group", "cell", "seed").agg(pl.col("value").mean())
    in_cell = {"": means}
    if cells:
        in_cell = {c: means.filter(cell=c) for c in sorted(means["cell"].unique())}
    tested = [
        (a, b, cell, _differences(runs, a.name, b.name))
        for cell, runs in in_cell.items()
        for a, b in itertools.combinations(ranked, 2)
        if len(ranked) <= _MOST_GROUPS or a is ranked[0]
    ]
    adjusted = holm([p_value(list(d.values())) for *_, (d, _) in tested])
    return tuple(
        _comparison(a, b, cell, pairs, p, len(tested), higher_is_better)
        for (a, b, cell, pairs), p in zip(tested, adjusted, strict=True)
    )


def _differences(means: pl.DataFrame, a: str, b: str) -> tuple[dict[int, float], float]:
    """{seed: mean over the cells that both have}, and the largest relative one."""
    pairs = means.filter(group=a).join(means.filter(group=b), on=["cell", "seed"])
    difference = pl.col("value") - pl.col("value_right")
    pairs = pairs.with_columns(difference=difference).filter(difference.is_finite())
    size = pl.max_horizontal(pl.col("value", "value_right").abs())
    relative = (pl.col("difference").abs() / size).fill_nan(0).max()
    per_seed = pairs.group_by("seed").agg(pl.mean("difference")).sort("seed")
    return dict(per_seed.rows()), pairs.select(relative).item() or 0.0


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
        # Pairs leave out diverged runs; that must not make a group look better.
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
