"""Paired statistics over seeds.

Runs with the same seed share initial parameters and the order of the examples, so their
difference has less noise than the runs themselves. The unit is the seed, not the run,
since runs with the same seed aren't independent: if other factors are crossed, a seed's
value is the mean over their cells. A run that diverged, was refused or failed counts as
the worst value with which any run ended or began: no better than untrained.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.inference import LEVEL, holm, mean_of, seeds_needed

AGREEMENT = 1e-4  # relative; another order of operations may round this differently


class Group(NamedTuple):
    """The runs with one value of the factor, at their own best setting.

    Attributes:
      name: the value of the factor.
      cell: such as "framework=jax"; empty for all cells that every group has.
      setting: what its own tuning chose, such as "optimizer.learning_rate=0.01"; empty
        if nothing was tuned or if it differs between cells.
      runs: how many; `failed` of them diverged, were refused or failed.
      values: the metric of each seed, {seed: mean over cells}.
      mean, low, high: over the seeds, with a 95 % interval by Student's t; the interval
        is NaN with fewer than two seeds, or if a run failed.
    """

    name: str
    cell: str
    setting: str
    runs: int
    failed: int
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
      difference, low, high: their mean, with an interval like a group's.
      wins: the share of these seeds for which `a` was better; a tie counts as half.
      probability: that a run of `a` is better than one of `b`, whatever their seeds:
        the share of all pairs of runs.
      p_value: of a paired t test, with Holm's correction over all comparisons.
      verdict: "better" or "worse" (a than b), "agree" (every pair of runs, within 1e-4
        of its value), "not separable", "one seed" or "no pairs".
      more_seeds: how many more would show a difference of half a standard deviation
        (see `seeds_needed`); 0 if that would have shown; None unless "not separable".
    """

    a: str
    b: str
    cell: str
    differences: dict[int, float]
    difference: float
    low: float
    high: float
    wins: float
    probability: float
    p_value: float
    verdict: str
    more_seeds: int | None


def groups(
    seeds: pl.DataFrame, used: pl.DataFrame, higher_is_better: bool, cells: bool = False
) -> tuple[Group, ...]:
    """A group for each value of the factor, the best mean first.

    Args:
      seeds: one row for each `group`, `cell` and `seed`, with its `value`.
      used: one row for each run: `group`, `cell`, `setting` (texts), `failed`.
      cells: a group for each cell, in the order of the cells.
    """
    # A group's mean over cells that others lack would compare cells, not groups.
    in_all = pl.col("group").n_unique().over("cell") == pl.col("group").n_unique()
    shared = seeds.filter(in_all)["cell"].unique().to_list()
    if not cells:
        kept = pl.col("cell").is_in(shared) if shared else True
        one = pl.lit("").alias("cell")
        seeds, used = (t.filter(kept).with_columns(one) for t in (seeds, used))
    means = seeds.group_by("group", "cell", "seed").agg(pl.mean("value")).sort("seed")
    found = []
    for (name, cell), runs in used.group_by("group", "cell", maintain_order=True):
        own = means.filter(group=name, cell=cell)
        values = dict(own.select("seed", "value").rows())
        settings, failed = runs["setting"].unique(), int(runs["failed"].sum())
        setting = settings[0] if len(settings) == 1 else ""
        ends = _interval(np.array([*values.values()]), failed > 0)
        found.append(Group(name, cell, setting, runs.height, failed, values, *ends))
    sign = -1 if higher_is_better else 1
    found.sort(key=lambda g: (g.cell, math.isnan(g.mean), sign * g.mean))
    return tuple(found)


def compare(
    seeds: pl.DataFrame, ranked: Sequence[Group], higher_is_better: bool, cells: bool
) -> tuple[Comparison, ...]:
    """Compare all pairs of groups, the better first.

    Two groups are ranked only if a paired t test says so at 5 %, with Holm's correction
    over all comparisons: among many, one would look different by chance. And the one of
    which more runs failed can't be called better.

    Args:
      seeds: as for `groups`.
      ranked: the groups, the best first.
      cells: within each cell rather than over all of them.
    """
    names, cell_of = np.unique(seeds["cell"], return_inverse=True)
    numbers, seed_of = np.unique(seeds["seed"], return_inverse=True)
    places = {group.name: place for place, group in enumerate(ranked)}
    values = np.full((len(ranked), len(names), len(numbers)), math.nan)
    values[[places[g] for g in seeds["group"]], cell_of, seed_of] = seeds["value"]
    parts = zip(names.tolist(), values.swapaxes(0, 1)[:, :, None], strict=True)
    pairs = [
        (a, b, cell, part[i], part[j])
        for cell, part in (parts if cells else [("", values)])
        for (i, a), (j, b) in itertools.combinations(enumerate(ranked), 2)
    ]
    # The mean over the cells that are known.
    differences = [mean_of((a - b).T).mean for *_, a, b in pairs]
    p_values = holm(np.array([mean_of(d).p_value for d in differences]))
    sign = 1 if higher_is_better else -1
    by_seed = [dict(zip(numbers.tolist(), d, strict=True)) for d in differences]
    return tuple(
        _comparison(*pair, found, p, len(pairs), sign)
        for pair, found, p in zip(pairs, by_seed, p_values.tolist(), strict=True)
    )


def _comparison(
    a: Group,
    b: Group,
    cell: str,
    of_a: np.ndarray,
    of_b: np.ndarray,
    by_seed: dict[int, float],
    p_value: float,
    tests: int,
    sign: int,
) -> Comparison:
    """One of so many `tests`, by the values [cell, seed]; `sign` is that of better."""
    by_seed = {seed: float(d) for seed, d in by_seed.items() if math.isfinite(d)}
    differences = np.array([*by_seed.values()])
    failed = [g.failed / g.runs for g in (a, b)]
    mean, low, high = _interval(differences, any(failed))
    size = np.fmax(np.abs(of_a), np.abs(of_b))
    verdict, more = "not separable", None
    if not by_seed or min(failed) == 1:
        verdict = "no pairs"
    elif not (np.abs(of_a - of_b) > AGREEMENT * size).any():
        verdict = "agree"
    elif len(by_seed) == 1:
        verdict = "one seed"
    elif p_value < 1 - LEVEL:
        better = 0 if sign * mean > 0 else 1
        if failed[better] <= failed[1 - better]:
            verdict = ("better", "worse")[better]
    if verdict == "not separable":
        more = max(0, seeds_needed(tests) - len(by_seed))
    return Comparison(
        a=a.name,
        b=b.name,
        cell=cell,
        differences=by_seed,
        difference=mean,
        low=low,
        high=high,
        wins=_wins(sign * differences),
        probability=_wins(sign * (of_a[:, :, None] - of_b[:, None])),
        p_value=p_value,
        verdict=verdict,
        more_seeds=more,
    )


def _wins(apart: np.ndarray) -> float:
    """The share of the known differences that are above 0; a tie counts as half."""
    known = apart[np.isfinite(apart)]
    return float(np.mean((np.sign(known) + 1) / 2)) if known.size else math.nan


def _interval(values: np.ndarray, failed: bool) -> tuple[float, float, float]:
    """The mean, and its interval if no run failed."""
    mean = mean_of(values)
    ends = (math.nan, math.nan) if failed else (float(mean.low), float(mean.high))
    return float(mean.mean), *ends
