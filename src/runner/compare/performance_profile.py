"""Performance profiles: how often, and how nearly, each group is the best."""

import altair as alt
import polars as pl

from runner.compare import chart_parts

# The axis shows no larger factor; that of a failed run is infinite.
_MAX_RATIO = 100.0


def profile(shown: chart_parts.Shown, higher_is_better: bool) -> alt.LayerChart | None:
    """Dolan and Moré's performance profile (https://doi.org/10.1007/s101070100263).

    A problem is a seed in a cell that two groups or more have. The cost is the metric,
    or 1 minus it if higher is better. None with fewer than two problems or groups, or
    if a cost isn't positive.
    """
    table = ratios(shown.table, higher_is_better)
    if table.is_empty() or len(shown.groups) < 2:
        return None
    end = min(_MAX_RATIO, 1.02 * max(table["ratio"].filter(table["ratio"].is_finite())))
    x = alt.X("ratio:Q", title="within this factor of the best").scale(
        type="log", domain=[1, max(end, 1.05)], nice=False, clamp=True
    )
    y = alt.Y("share:Q", title="share of problems").scale(domain=[0, 1.02], nice=False)
    base = alt.Chart(chart_parts.csv(profiles(table, max(end, 1.05))))
    base = base.transform_filter(chart_parts.SHOWN).encode(
        x=x.axis(format="~g", labelOverlap=True, tickCount=5),
        y=y.axis(format="%", values=[0, 0.25, 0.5, 0.75, 1]),
        color=shown.colour(),
    )
    lines = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        strokeDash=shown.dash()
    )
    dots = chart_parts.dots(
        base,
        chart_parts.nearest("group", "ratio"),
        {"group": shown.by},
        alt.Tooltip("ratio:Q", title="within a factor of"),
        alt.Tooltip("share:Q", title="share of problems", format=".1%"),
    )
    return chart_parts.figure([lines, dots], [])


def ratios(table: pl.DataFrame, higher_is_better: bool) -> pl.DataFrame:
    """`group`, `problem`, and the `ratio` to its lowest cost; infinite if failed.

    Empty with fewer than two problems or a cost that isn't positive.
    """
    cost = 1 - pl.col("value") if higher_is_better else pl.col("value")
    costs = table.select(
        "group",
        problem=pl.concat_str("cell", pl.col("seed").cast(pl.String), separator=" "),
        cost=pl.when("failed").then(float("inf")).otherwise(cost),
    )
    best = pl.col("cost").min().over("problem")
    shared = pl.col("group").n_unique().over("problem") > 1
    costs = costs.filter(shared & best.is_finite())
    if costs["problem"].n_unique() < 2 or (costs["cost"] <= 0).any():
        return costs.clear().with_columns(ratio=pl.lit(0.0))
    return costs.with_columns(ratio=pl.col("cost") / best)


def profiles(table: pl.DataFrame, end: float) -> pl.DataFrame:
    """`group`, `ratio`, `share` of problems at or below it, from 1 to `end`."""
    rows = []
    problems = table["problem"].n_unique()
    for (group,), part in table.group_by("group", maintain_order=True):
        for ratio in sorted({1.0, end, *part["ratio"].filter(part["ratio"] < end)}):
            rows.append((group, ratio, (part["ratio"] <= ratio).sum() / problems))
    return pl.DataFrame(rows, ["group", "ratio", "share"], orient="row")
