"""Which factor explains the differences."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from runner.compare.statistics import AGREEMENT


class Attribution(NamedTuple):
    """The share of one factor in the variance of the final metric.

    Attributes:
      factor: a column, such as "optimizer" or "seed"; "rest" is interactions and noise.
      share: of the sum of squares, 0 to 1; None where runs don't fill a balanced grid.
      largest_difference: between values of the factor, all else equal; NaN for "rest"
        and if no two runs differ in this factor alone.
      relative: the largest difference relative to the metric.
      agrees: `relative` is at most 1e-4.
    """

    factor: str
    share: float | None
    largest_difference: float
    relative: float
    agrees: bool


def attribute(runs: pl.DataFrame, factors: Sequence[str]) -> tuple[Attribution, ...]:
    """The main effects of an analysis of variance, without its tests.

    A factor's sum of squares is that of its values' means around the grand mean. These
    add up to the total only on a balanced grid, with every combination equally often.

    Args:
      runs: one row for each run, with `factors` and its `value`.
      factors: those that vary.

    Returns:
      the factors in their order, then "rest"; empty without factors.
    """
    if not factors:
        return ()
    finite = runs.filter(pl.col("value").is_finite())
    counts = finite.group_by(factors).len()["len"]
    is_full = len(counts) == math.prod(finite[f].n_unique() for f in factors)
    balanced = finite.height == runs.height and is_full and counts.n_unique() == 1
    centred = finite.with_columns(value=pl.col("value") - pl.col("value").mean())
    total = float((centred["value"] ** 2).sum())
    found, explained = [], 0.0
    for factor in factors:
        means = centred.with_columns(pl.col("value").mean().over(factor))["value"]
        share = float((means**2).sum()) / total if total else 0.0
        explained += share
        others = [f for f in factors if f != factor]
        largest, relative = _largest(finite, factor, others)
        agrees, share = relative <= AGREEMENT, share if balanced else None
        found.append(Attribution(factor, share, largest, relative, agrees))
    rest = max(0.0, 1 - explained) if balanced and total else None
    return (*found, Attribution("rest", rest, math.nan, math.nan, False))


def _largest(runs: pl.DataFrame, factor: str, others: list[str]) -> tuple[float, float]:
    value = pl.col("value")
    means = runs.group_by(factor, *others).agg(value.mean())
    spread = means.group_by(others or pl.lit(0)).agg(
        difference=value.max() - value.min(), scale=value.abs().max(), count=pl.len()
    )
    spread = spread.filter(pl.col("count") > 1)
    if spread.is_empty():
        return math.nan, math.nan
    relative = (spread["difference"] / spread["scale"]).fill_nan(0).max()
    return float(spread["difference"].max()), float(relative)  # pyright: ignore
