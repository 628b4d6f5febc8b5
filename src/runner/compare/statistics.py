"""Paired statistics over seeds.

Runs with the same seed share initial parameters and the order of the examples, so their
difference has less noise than the runs themselves. The unit is the seed, not the run,
since runs with the same seed aren't independent: if other factors are crossed, a seed's
value is the mean over their cells. A run that diverged, was refused or failed counts as
`worst_of` says.
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


def worst_of(used: pl.DataFrame, first: pl.DataFrame, higher_is_better: bool) -> float:
    """What a run counts as that has no finite final value; NaN if none has.

    The worst value with which a run of `used` ended or began: no better than untrained.

    Args:
      used: a row for each run: `run`, `value`.
      first: the first logged value of each `run`: `first`.
    """
    known = [*used["value"], *used.join(first, on="run")["first"]]
    finite = [v for v in known if v is not None and math.isfinite(v)]
    return (min if higher_is_better else max)(finite, default=math.nan)


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
    key = ["group", "cell"] if cells else ["group"]
    if shared and not cells:
        seeds, used = (t.filter(pl.col("cell").is_in(shared)) for t in (seeds, used))
    means = seeds.group_by(*key, "seed").agg(pl.mean("value")).sort("seed")
    by_key = means.partition_by(key, as_dict=True, include_key=False)
    found = []
    for name, runs in used.group_by(key, maintain_order=True):
        values = dict(by_key[name].rows())
        settings, failed = runs["setting"].unique(), int(runs["failed"].sum())
        mean = mean_of(np.array(list(values.values())))
        ends = (math.nan, math.nan) if failed else (float(mean.low), float(mean.high))
        setting = settings[0] if len(settings) == 1 else ""
        name, cell = (*name, "")[:2]
        found.append(
            Group(
                name,
                cell,
                setting,
                runs.height,
                failed,
                values,
                float(mean.mean),
                *ends,
            )
        )
    sign = -1 if higher_is_better else 1
    return tuple(
        sorted(found, key=lambda g: (g.cell, math.isnan(g.mean), sign * g.mean))
    )


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
    pairs = np.array([*itertools.combinations(range(len(ranked)), 2)], int)
    pairs = pairs.reshape(-1, 2)
    names, numbers, values = _by_seed(seeds, ranked)
    parts = zip(names, values.swapaxes(0, 1)[:, :, None], strict=True)
    found = []
    for cell, part in parts if cells else [("", values)]:
        a, b = part[pairs[:, 0]], part[pairs[:, 1]]  # [pair, cell, seed]
        size = np.fmax(np.abs(a), np.abs(b))
        relative = np.divide(np.abs(a - b), size, out=a - b, where=size > 0)
        found.append((cell, a, b, _mean(a - b), np.fmax.reduce(relative, (1, 2))))
    p_values = [mean_of(difference).p_value for *_, difference, _ in found]
    adjusted = iter(holm(np.concatenate([*p_values, []])))
    tests = len(pairs) * len(found)
    return tuple(
        _comparison(
            ranked[i], ranked[j], cell, numbers, difference[k], relative[k],
            _probability(a[k], b[k], higher_is_better), next(adjusted), tests,
            higher_is_better,
        )
        for cell, a, b, difference, relative in found
        for k, (i, j) in enumerate(pairs)
    )  # fmt: skip


def _by_seed(
    seeds: pl.DataFrame, ranked: Sequence[Group]
) -> tuple[list[str], list[int], np.ndarray]:
    """The cells, the seeds, and the values [group, cell, seed]; NaN for none."""
    names = seeds["cell"].unique().sort().to_list()
    numbers = seeds["seed"].unique().sort().to_list()
    axes = ([g.name for g in ranked], names, numbers)
    values = np.full([len(axis) for axis in axes], math.nan)
    places = [{name: i for i, name in enumerate(axis)} for axis in axes]
    columns = [seeds[c].to_list() for c in ("group", "cell", "seed")]
    index = [
        [place[name] for name in column]
        for place, column in zip(places, columns, strict=True)
    ]
    values[tuple(index)] = seeds["value"].to_numpy()
    return names, numbers, values


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the cells that are known: [pair, cell, seed] to [pair, seed]."""
    return mean_of(values.swapaxes(1, 2)).mean


def _probability(a: np.ndarray, b: np.ndarray, higher_is_better: bool) -> float:
    """The share of pairs of seeds, one of `a` and one of `b`, that `a` wins."""
    sign = 1 if higher_is_better else -1
    apart = sign * (a[:, :, None] - b[:, None, :])  # [cell, seed, seed]
    return _wins(apart[np.isfinite(apart)])


def _wins(apart: np.ndarray) -> float:
    return float(np.mean((np.sign(apart) + 1) / 2)) if apart.size else math.nan


def _comparison(
    a: Group,
    b: Group,
    cell: str,
    numbers: list[int],
    differences: np.ndarray,
    relative: float,
    probability: float,
    p_value: float,
    tests: int,
    higher_is_better: bool,
) -> Comparison:
    known = np.isfinite(differences)
    mean, count = mean_of(differences), int(known.sum())
    sign = 1 if higher_is_better else -1
    failed = [g.failed / g.runs for g in (a, b)]
    verdict, more = "not separable", None
    if not count or min(failed) == 1:
        verdict = "no pairs"
    elif relative <= AGREEMENT:
        verdict = "agree"
    elif count == 1:
        verdict = "one seed"
    elif p_value < 1 - LEVEL:
        better = 0 if sign * mean.mean > 0 else 1
        if failed[better] <= failed[1 - better]:
            verdict = ("better", "worse")[better]
    if verdict == "not separable":
        more = max(0, seeds_needed(tests) - count)
    ends = (mean.low, mean.high) if not any(failed) else (math.nan, math.nan)
    return Comparison(
        a=a.name,
        b=b.name,
        cell=cell,
        differences={
            n: float(d) for n, d in zip(numbers, differences, strict=True) if d == d
        },
        difference=float(mean.mean),
        low=float(ends[0]),
        high=float(ends[1]),
        wins=_wins(sign * differences[known]),
        probability=probability,
        p_value=float(p_value),
        verdict=verdict,
        more_seeds=more,
    )
