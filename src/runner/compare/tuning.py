"""Fair tuning: each group at its own best setting, with the same budget."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl

from runner.compare.load import natural


class Tuning(NamedTuple):
    """The settings that were tried, and those that were chosen.

    Attributes:
      keys: the tuned keys, such as ("optimizer.learning_rate",); empty if none.
      tried: {group: how many settings it tried, in the cell where it tried most}.
      budget: of how many settings each group counts with its best: all that it tried
        if those are equally many and no other budget is asked for (None).
      matched: whether every group's best of `budget` settings can be computed.
      sensitivity: one row for each group, cell and setting: `group`, `cell`, `setting`
        (text), a column for each tuned key, `runs`, `failed`, `mean`, `low`, `high`
        (mean, lowest and highest of the finite runs), `chosen` (Boolean: the best) and
        `weight`: the probability that it is the best of `budget` settings at random.
    """

    keys: tuple[str, ...]
    tried: dict[str, int]
    budget: int | None
    matched: bool
    sensitivity: pl.DataFrame


def tune(
    runs: pl.DataFrame, keys: list[str], budget: int | None, higher_is_better: bool
) -> Tuning:
    """Choose each group's best setting in each cell, by the mean over its seeds.

    A setting with fewer seeds than another of the same group and cell isn't chosen: a
    single lucky seed would win. One with more failed runs is worse than one with less.

    More tries can win by luck. So of groups that tried unequally many settings, each
    counts with its expected best of m, where m is what the least tuned one has tried:
    over all choices of m of its settings, how often each of them would be the best.

    Args:
      runs: one row each: `group`, `cell`, `setting` (texts), `seed`, `value` (not
        finite if it failed), `keys`.
      budget: at most this m.
    """
    finite = pl.col("value").filter(pl.col("value").is_finite())
    table = runs.group_by("group", "cell", "setting", *keys, maintain_order=True).agg(
        runs=pl.len(),
        seeds=pl.col("seed").n_unique(),
        failed=pl.col("value").is_finite().not_().sum(),
        mean=finite.mean(),
        low=finite.min(),
        high=finite.max(),
    )
    table = table.sort("group", "cell", *keys, nulls_last=True, maintain_order=True)
    counts = table.group_by("group", "cell").len("tried")
    least = dict(counts.group_by("cell").agg(pl.min("tried")).rows())  # in each cell
    budgets = {cell: min(budget or tried, tried) for cell, tried in least.items()}
    sensitivity = pl.concat(
        _choose(grid, budgets[grid["cell"][0]], higher_is_better)
        for grid in table.partition_by("group", "cell", maintain_order=True)
    )
    most = counts.group_by("group").agg(pl.max("tried")).rows()
    tried = dict(sorted(most, key=lambda row: natural(row[0])))
    is_whole = (sensitivity.filter("chosen")["weight"] == 1).all()
    m = None if is_whole else min(budgets.values())
    matched = not sensitivity["weight"].is_nan().any()
    return Tuning(tuple(keys), tried, m, matched, sensitivity)


def _choose(grid: pl.DataFrame, budget: int, higher_is_better: bool) -> pl.DataFrame:
    """`grid` with `chosen` and `weight`; NaN where settings lack seeds of others."""
    cost = -pl.col("mean") if higher_is_better else pl.col("mean")
    fewer_seeds = pl.col("seeds") != pl.col("seeds").max()
    order = [fewer_seeds, pl.col("failed") / pl.col("runs"), cost]
    total = grid.height
    best = math.comb(total, budget)
    weights = [math.comb(total - 1 - r, budget - 1) / best for r in range(total)]
    if budget < total and grid["seeds"].n_unique() > 1:
        weights = [math.nan] * total
    ranked = grid.with_row_index().sort(order, nulls_last=True, maintain_order=True)
    ranked = ranked.with_columns(
        chosen=pl.int_range(pl.len()) == 0, weight=pl.Series(weights)
    )
    return ranked.sort("index").drop("index", "seeds")


def at_budget(runs: pl.DataFrame, tuning: Tuning) -> pl.DataFrame:
    """`group`, `cell`, `seed`, and the `value` at the budget that all groups have.

    Args:
      runs: as for `tune`, with a finite `value` for those that failed too.
    """
    on = ["group", "cell", "setting"]
    weight = pl.col("weight") if tuning.matched else pl.col("chosen").cast(pl.Float64)
    weights = tuning.sensitivity.select(*on, weight.alias("weight"))
    runs = runs.join(weights.filter(pl.col("weight") > 0), on=on)
    value = (pl.col("value") * pl.col("weight")).sum() / pl.col("weight").sum()
    return runs.group_by("group", "cell", "seed").agg(value=value)


def warnings_of(tuning: Tuning) -> Iterator[str]:
    """About unequal budgets, and bests at an edge of the grid."""
    if tuning.budget is not None:
        counts = ", ".join(f"{group} {count}" for group, count in tuning.tried.items())
        then = "They can't be matched, since not every setting has the same seeds"
        if tuning.matched:
            then = (
                f"So each group counts with its expected best of {tuning.budget}, over "
                "all choices of so many of its settings"
            )
        tried = f"settings tried are {counts}, and more tries can win by luck"
        yield f"unequal tuning: {tried}. {then}"
    for best in tuning.sensitivity.filter("chosen").iter_rows(named=True):
        cell = f" ({best['cell']})" if best["cell"] else ""
        for key, edge in edges_of(tuning, best).items():
            yield (
                f"{best['group']}{cell} is best at the {edge} {key} tried "
                f"({best[key]:g}): extend the grid"
            )


def edges_of(tuning: Tuning, best: Mapping[str, Any]) -> dict[str, str]:
    """{key: "smallest" or "largest"} where a row of `sensitivity` has such a number."""
    edges = {}
    for key in tuning.keys:
        grid = tuning.sensitivity.filter(group=best["group"], cell=best["cell"])[key]
        if grid.dtype.is_numeric() and grid.drop_nulls().n_unique() > 1:
            if best[key] == grid.min():
                edges[key] = "smallest"
            elif best[key] == grid.max():
                edges[key] = "largest"
    return edges
