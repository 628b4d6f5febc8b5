"""Fair tuning: each group at its own best setting, within one budget."""

import math
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.load import natural

_SECONDS = "time/steps_per_second"


class Tuning(NamedTuple):
    """What was tried and chosen.

    Attributes:
      keys: the tuned keys, such as ("optimizer.learning_rate",); empty if none.
      budget: how many settings each group was allowed; None if not declared.
      tried: {group: how many settings it tried; the most of its cells}.
      sensitivity: one row a group, cell and setting: `group`, `cell`, `setting` (text),
        a column for each tuned key, `runs`, `diverged`, `mean`, `low`, `high` (lowest
        and highest seed; means of finite runs), `chosen` (Boolean).
    """

    keys: tuple[str, ...]
    budget: int | None
    tried: dict[str, int]
    sensitivity: pl.DataFrame


class Target(NamedTuple):
    """How fast a group reached the target.

    Attributes:
      group: its name.
      runs: how many; `reached` of them got there.
      steps, seconds: medians over all runs, a run that never got there counting as
        infinite; None if the median is. Seconds are from time/steps_per_second, so
        without the compile; None if that isn't recorded.
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

    Settings with fewer seeds than another of the same group and cell don't compete: a
    single lucky seed would win. Neither do those in which a run diverged, unless one
    did in all of them. With a `budget`, a group that tried more keeps as many, spread
    evenly over its grid.

    Args:
      runs: a row a run: `group`, `cell`, `setting` (texts), `seed`, `value`, `keys`.

    Returns:
      what was tried, and warnings: unequal budgets, and bests at the edge of a grid.
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
    tried: dict[str, int] = {}
    for grid in grids:
        group = grid["group"][0]
        tried[group] = max(tried.get(group, 0), grid.height)
    # A budget may leave out the best one, which then is no edge.
    free = pl.concat(_choose(grid, None, higher_is_better) for grid in grids)
    table = pl.concat(_choose(grid, budget, higher_is_better) for grid in grids)
    tried = dict(sorted(tried.items(), key=lambda item: natural(item[0])))
    warnings = [*_budgets(tried, budget), *(w for k in keys for w in _edges(free, k))]
    return Tuning(tuple(keys), budget, tried, table.drop("seeds")), tuple(warnings)


def _choose(
    grid: pl.DataFrame, budget: int | None, higher_is_better: bool
) -> pl.DataFrame:
    kept = range(grid.height)
    if budget and budget < grid.height:
        kept = np.linspace(0, grid.height - 1, budget).round().astype(int).tolist()
    most = grid["seeds"].max()

    def rank(index: int) -> tuple:
        row = grid.row(index, named=True)
        mean = math.inf if row["mean"] is None else row["mean"]
        worse = -mean if higher_is_better and math.isfinite(mean) else mean
        return row["seeds"] != most, row["diverged"], worse

    best = min(kept, key=rank)
    return grid.with_columns(chosen=pl.int_range(pl.len()) == best)


def _budgets(tried: dict[str, int], budget: int | None) -> list[str]:
    told = ", ".join(f"{group} {count}" for group, count in tried.items())
    if budget is None and len(set(tried.values())) > 1:
        return [
            f"unequal tuning: settings tried are {told}; more tries win by luck. "
            "--budget N lets each have N"
        ]
    if budget and any(count != budget for count in tried.values()):
        return [
            f"the declared budget is {budget} settings each, but tried are {told}: of "
            f"more, {budget} spread over the grid count"
        ]
    return []


def _edges(table: pl.DataFrame, key: str) -> list[str]:
    if not table[key].dtype.is_numeric():
        return []
    warnings = []
    for grid in table.partition_by("group", "cell", maintain_order=True):
        values = grid[key].drop_nulls().unique().sort()
        best = grid.filter("chosen")[key][0]
        if len(values) < 2 or best not in (values[0], values[-1]):
            continue
        edge = "smallest" if best == values[0] else "largest"
        where = f" ({grid['cell'][0]})" if grid["cell"][0] else ""
        warnings.append(
            f"{grid['group'][0]}{where} is best at the {edge} {key} tried ({best:g}): "
            "extend the grid"
        )
    return warnings


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
    found = []
    for (group,), rows in runs.group_by("group", maintain_order=True):
        reached = rows["step"].count()
        steps, seconds = (
            rows[name].cast(pl.Float64).fill_null(math.inf).median()
            for name in ("step", "seconds")
        )
        found.append(
            Target(str(group), rows.height, reached, _ended(steps), _ended(seconds))
        )
    return tuple(found)


def _ended(median) -> float | None:
    return median if median is not None and math.isfinite(median) else None
