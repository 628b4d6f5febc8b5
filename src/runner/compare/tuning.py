"""Fair tuning: each group at its own best setting, with the same budget."""

import math
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from runner.compare.load import natural

_SECONDS = "time/steps_per_second"


class Tuning(NamedTuple):
    """The settings that were tried, and those that were chosen.

    Attributes:
      keys: the tuned keys, such as ("optimizer.learning_rate",); empty if none.
      budget: how many settings each group may choose from; None for all of them.
      tried: {group: how many settings it tried, in the cell where it tried most}.
      sensitivity: one row for each group, cell and setting: `group`, `cell`, `setting`
        (text), a column for each tuned key, `runs`, `diverged`, `mean`, `low`, `high`
        (mean, lowest and highest of the finite runs), `chosen` (Boolean).
    """

    keys: tuple[str, ...]
    budget: int | None
    tried: dict[str, int]
    sensitivity: pl.DataFrame


class Target(NamedTuple):
    """How fast a group reached the target.

    Attributes:
      runs: how many; `reached` of them reached it.
      steps, seconds: medians over all runs, where a run that never reached it counts as
        infinite; None for an infinite median. Seconds are without compilation, from
        time/steps_per_second; None if that wasn't recorded.
    """

    group: str
    runs: int
    reached: int
    steps: float | None
    seconds: float | None


def tune(
    runs: pl.DataFrame, keys: list[str], budget: int | None, higher_is_better: bool
) -> tuple[Tuning, tuple[str, ...]]:
    """Choose each group's best setting in each cell, by the mean over its seeds.

    A setting with fewer seeds than another of the same group and cell isn't chosen: a
    single lucky seed would win. Neither is one in which a run diverged, unless that
    happened in all of them. A group that tried more than `budget` settings chooses from
    so many of them, spread evenly over its grid.

    Args:
      runs: one row each: `group`, `cell`, `setting` (texts), `seed`, `value`, `keys`.

    Returns:
      the tuning, and warnings about unequal budgets and bests at an edge of the grid.
    """
    finite = pl.col("value").filter(pl.col("value").is_finite())
    table = runs.group_by("group", "cell", "setting", *keys, maintain_order=True).agg(
        runs=pl.len(),
        seeds=pl.col("seed").n_unique(),
        diverged=pl.col("value").is_finite().not_().sum(),
        mean=finite.mean(),
        low=finite.min(),
        high=finite.max(),
    )
    table = table.sort("group", "cell", *keys, nulls_last=True, maintain_order=True)
    grids = table.partition_by("group", "cell", maintain_order=True)
    # A budget may leave out the best setting, so edges are those of the whole grid.
    free = pl.concat(_choose(grid, None, higher_is_better) for grid in grids)
    table = pl.concat(_choose(grid, budget, higher_is_better) for grid in grids)
    counts = table.group_by("group", "cell").len().group_by("group").agg(pl.max("len"))
    tried = dict(sorted(counts.rows(), key=lambda row: natural(row[0])))
    warnings = [*_budgets(tried, budget), *(w for k in keys for w in _edges(free, k))]
    return Tuning(tuple(keys), budget, tried, table.drop("seeds")), tuple(warnings)


def _choose(
    grid: pl.DataFrame, budget: int | None, higher_is_better: bool
) -> pl.DataFrame:
    kept = range(grid.height)
    if budget and budget < grid.height:
        kept = np.linspace(0, grid.height - 1, budget).round().astype(int).tolist()
    most = grid["seeds"].max()
    cost = -pl.col("mean") if higher_is_better else pl.col("mean")
    ranked = grid.with_row_index().filter(pl.col("index").is_in(kept))
    order = [pl.col("seeds") != most, pl.col("diverged"), cost]
    ranked = ranked.sort(order, nulls_last=True, maintain_order=True)
    return grid.with_columns(chosen=pl.int_range(pl.len()) == ranked["index"][0])


def _budgets(tried: dict[str, int], budget: int | None) -> list[str]:
    counts = ", ".join(f"{group} {count}" for group, count in tried.items())
    if budget is None and len(set(tried.values())) > 1:
        return [
            f"unequal tuning: settings tried are {counts}, and more tries can win by "
            "luck. --budget N lets each group choose from N"
        ]
    if budget and any(count != budget for count in tried.values()):
        return [
            f"the declared budget is {budget} settings each, but settings tried are "
            f"{counts}: of more, only {budget} spread over the grid count"
        ]
    return []


def _edges(table: pl.DataFrame, key: str) -> list[str]:
    warnings = []
    for grid in table.partition_by("group", "cell", maintain_order=True):
        best = grid.filter("chosen").row(0, named=True)
        if edge := edge_of(grid[key], best[key]):
            cell = f" ({best['cell']})" if best["cell"] else ""
            warnings.append(
                f"{best['group']}{cell} is best at the {edge} {key} tried "
                f"({best[key]:g}): extend the grid"
            )
    return warnings


def edge_of(tried: pl.Series, value: Any) -> str | None:
    """Whether `value` is the "smallest" or "largest" number of several in `tried`."""
    if not tried.dtype.is_numeric() or tried.drop_nulls().n_unique() < 2:
        return None
    ends = {"smallest": tried.min(), "largest": tried.max()}
    return next((end for end, tip in ends.items() if tip == value), None)


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
    speed = pl.col(_SECONDS) if _SECONDS in curves else pl.lit(None, pl.Float64)
    taken = pl.col("step") - pl.col("step").shift(1, fill_value=0)
    first = (
        curves.with_columns(seconds=(taken / speed).cum_sum().over("run"))
        .filter(good)
        .group_by("run", maintain_order=True)
        .first()
    )
    runs = used.join(first.select("run", "step", "seconds"), on="run", how="left")
    times = pl.col("step", "seconds").cast(pl.Float64).fill_null(math.inf)
    found = runs.group_by("group", maintain_order=True).agg(
        pl.len(),
        pl.col("step").count().alias("reached"),
        times.median().replace(math.inf, None),
    )
    return tuple(Target(*row) for row in found.rows())
