"""What runs cost: a metric by steps, by seconds and by FLOPs."""

import math
from typing import NamedTuple

import polars as pl

from runner.compare.load import Runs
from runner.settings import FACT

_SPEED = "time/steps_per_second"
_MEMBERS = f"{FACT}members"

# {column of `with_costs`: its unit}
AXES = {"step": "steps", "cost/seconds": "seconds", "cost/flops": "FLOPs"}


class Target(NamedTuple):
    """How fast a group reached the target.

    Attributes:
      runs: how many; `reached` of them reached it.
      steps, seconds, flops: medians over all runs, where a run that never reached it
        counts as infinite; None if that wasn't recorded. Seconds are without
        compilation.
    """

    group: str
    runs: int
    reached: int
    steps: float | None
    seconds: float | None
    flops: float | None


def with_costs(runs: Runs) -> pl.DataFrame:
    """`runs.curves` and what each row had cost, in columns of AXES; null if unknown.

    The members of a population share their seconds, so these say nothing of each.
    """
    curves, table, step = runs.curves, runs.table, pl.col("step")
    members = table[_MEMBERS] if _MEMBERS in table else pl.Series([1])
    shared = (members.cast(pl.Int64, strict=False) > 1).any()
    is_known = _SPEED in curves and not shared
    speed = pl.col(_SPEED) if is_known else pl.lit(None, pl.Float64)
    taken = (step - step.shift(1, fill_value=0)) / speed
    seconds = pl.when(taken.is_not_null().all()).then(taken.cum_sum()).over("run")
    each = table.select("run", "flops_per_step")
    curves = curves.join(each, on="run", how="left", maintain_order="left")
    costs = {"cost/seconds": seconds, "cost/flops": step * pl.col("flops_per_step")}
    return curves.with_columns(**costs).drop("flops_per_step")


def axes(table: pl.DataFrame) -> dict[str, str]:
    """AXES, but FLOPs only if a step of some runs takes more: else steps say it."""
    same = table["flops_per_step"].n_unique() == 1
    return {k: unit for k, unit in AXES.items() if not (same and unit == "FLOPs")}


def at_equal(
    curves: pl.DataFrame, rows: pl.DataFrame, metric: str, axis: str
) -> tuple[float, pl.DataFrame] | None:
    """What each run of `rows` had reached when the cheapest of them ended.

    A run that hadn't been evaluated by then has no value, like one that failed.

    Args:
      rows: `run`, `value` (not finite if it failed), and more.

    Returns:
      that cost, and `rows` with these values. None if the cost of a run isn't known, or
      all cost the same: then their final values say it.
    """
    has_ended = pl.col("value").is_finite()
    ended = rows.filter(has_ended).select("run")
    if metric not in curves or ended.is_empty():
        return None
    curves = curves.select("run", axis, metric).join(ended, on="run")
    totals = curves.group_by("run").agg(pl.max(axis))
    least, most = totals[axis].min(), totals[axis].max()
    if totals[axis].null_count() or totals.height < ended.height or least == most:
        return None
    reached = (
        curves.filter(pl.col(axis) <= least, pl.col(metric).is_not_null())
        .group_by("run", maintain_order=True)
        .agg(reached=pl.last(metric))
    )
    rows = rows.join(reached, on="run", how="left", maintain_order="left")
    then = pl.when(has_ended).then(pl.col("reached").fill_null(math.nan))
    rows = rows.with_columns(value=then.otherwise("value")).drop("reached")
    return float(least), rows  # pyright: ignore


def reach(
    curves: pl.DataFrame,
    used: pl.DataFrame,
    metric: str,
    target: float | None,
    higher_is_better: bool,
) -> tuple[Target, ...]:
    """How fast each group of `used` (`run`, `group`) first reached `target`."""
    if target is None or metric not in curves:
        return ()
    good = pl.col(metric) >= target if higher_is_better else pl.col(metric) <= target
    first = curves.filter(good).group_by("run", maintain_order=True).first()
    known = curves.join(used, on="run").select(pl.col(*AXES).is_not_null().all())
    runs = used.join(first.select("run", *AXES), on="run", how="left")
    found = runs.group_by("group", maintain_order=True).agg(
        pl.len(),
        pl.col("step").count().alias("reached"),
        pl.col(*AXES).cast(pl.Float64).fill_null(math.inf).median(),
    )
    unknown = [pl.lit(None).alias(axis) for axis in AXES if not known[axis].item()]
    return tuple(Target(*row) for row in found.with_columns(unknown).rows())
