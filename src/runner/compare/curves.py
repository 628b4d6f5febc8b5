"""Figures of metrics against the step: one line for each group and cell."""

import math
from typing import Any

import altair as alt
import polars as pl

from runner.compare import chart_parts

# More rows than this are thinned, at equal distances in steps, to keep the page small.
MAX_ROWS = 6_000
_MOST = 12  # labels


def aggregate(
    curves: pl.DataFrame, shown: chart_parts.Shown, metric: str, axis: str
) -> pl.DataFrame:
    """`group`, `cell`, `at`, `mean`, `low`, `high`, `runs`: about MAX_ROWS at most.

    Thinned by leaving out steps, never by averaging neighbours: every point was logged.
    `at` is the mean cost of the runs at one step; they differ in seconds. `runs` counts
    those with a finite value at that step. A run that failed has the worst after it.

    Args:
      curves: see `with_costs`.
      axis: a column of costs.AXES.
    """
    if metric not in curves:
        return pl.DataFrame(schema={"at": pl.Float64})
    keys = ["group", "cell"]
    value = pl.col(metric)
    runs = shown.table.select("run", *keys, "failed", worst="value")
    logged = curves.select("run", "step", metric, at=pl.col(axis).cast(pl.Float64))
    logged = logged.filter(value.is_finite()).join(runs, on="run")
    if logged["at"].null_count():  # a figure of some of the runs would mislead
        return logged.clear()
    if metric == shown.analysis.metric and runs["failed"].any():
        ends = logged.group_by("run").agg(end=pl.max("step"))
        after = (
            runs.filter("failed").join(ends, on="run", how="left")
            .join(logged.group_by(*keys, "step").agg(pl.mean("at")), on=keys)
            .filter(pl.col("step") > pl.col("end").fill_null(0))
            .with_columns(pl.col("worst").alias(metric))
        )  # fmt: skip
        logged = pl.concat([logged, after.select(logged.columns)])
    table = (
        logged.group_by(*keys, "step")
        .agg(
            pl.mean("at"),
            mean=value.mean(),
            low=value.min(),
            high=value.max(),
            runs=pl.len(),
        )
        .sort(*keys, "step")
    )
    every = math.ceil(table.height / MAX_ROWS)
    index = pl.int_range(pl.len()).over(*keys)
    last = pl.col("step") == pl.col("step").max().over(*keys)
    return table.filter((index % max(every, 1) == 0) | last)


def identical(table: pl.DataFrame) -> list[list[str]]:
    """The groups whose curves are the same in all digits that a figure has."""
    digits = pl.col("at", "mean", "low", "high").round_sig_figs(6)
    curve = pl.concat_str("cell", digits, separator=" ").str.join("\n")
    each = table.group_by("group", maintain_order=True).agg(curve=curve)
    same = each.group_by("curve", maintain_order=True).agg("group")["group"]
    return [groups for groups in same.to_list() if len(groups) > 1]


def curves(
    table: pl.DataFrame, shown: chart_parts.Shown, metric: str, unit: str
) -> alt.LayerChart:
    """Lines of `table` (see `aggregate`), with a band from lowest to highest."""
    switch = chart_parts.log_switch([*table["low"], *table["high"]])
    ends: list[Any] = [table["at"].min(), table["at"].max()]
    x = alt.X("at:Q", title=unit).axis(tickCount=6, format="~s", labelOverlap=True)
    x = x.scale(domain=ends, nice=False)
    labelled = _labelled(table, switch)
    line, base, span, parameters = chart_parts.lines(labelled, shown, x, switch, metric)
    band = span.mark_area(fillOpacity=0.16)
    titles = {"step:Q": "step", "at:Q": unit, "mean:Q": f"mean {metric}"}
    titles |= {"low:Q": "lowest run", "high:Q": "highest run", "runs:Q": "runs"}
    if unit == "steps":
        del titles["at:Q"]
    dots, near = _hover(base, shown.names(), chart_parts.tooltips(titles))
    named = base.transform_filter("datum.label")
    dy = alt.ExprRef("datum.dy")
    names = [
        named.mark_text(align="right", dx=-4, dy=dy, fontSize=11, style=style).encode(
            text=alt.Text("label:N")
        )
        for style in ("halo", "name")
    ]
    steps = table.select("step", "at").unique("step", maintain_order=True)
    rule = alt.Chart(chart_parts.csv(steps), name="hover_rule").mark_rule()
    rule = rule.encode(x=x).transform_filter(near)
    return chart_parts.figure([band, rule, line, dots, *names], parameters)


def _hover(
    base: alt.Chart, names: dict[str, str], tooltip: list[alt.Tooltip]
) -> tuple[alt.Chart, alt.Parameter]:
    """Dots of `base` at the step nearest to the mouse, and what selects them.

    With a nearest-point selection Vega-Lite looks for names, unlike numbers, in the
    mark's item instead of the row (https://github.com/vega/vega-lite/pull/9707). So
    the `names`, as those of `Shown`, go through `description`, which both of them have.
    """
    on = {"on": "pointerover", "clear": "pointerout", "empty": False}
    near = alt.selection_point(name="near", fields=["step"], nearest=True, **on)
    joined = " + ', ' + ".join(f"datum.{field.removesuffix(':N')}" for field in names)
    name = alt.Tooltip("description:N", title=", ".join(names.values()))
    dots = (
        base.transform_calculate(description=joined)
        .mark_circle(size=50)
        .encode(
            opacity=alt.when(near).then(alt.value(1)).otherwise(alt.value(0)),
            description="description:N",
            tooltip=[name, *tooltip],
        )
    )
    return dots.properties(name="hover_dots").add_params(near), near


def _labelled(table: pl.DataFrame, switch: chart_parts.Switch) -> pl.DataFrame:
    """`table` with the `label` of curves at their ends, one for identical ones.

    And with `dy`, by how many pixels it is off its end, so that none covers another.
    """
    of = {}
    for same in identical(table):
        of |= dict.fromkeys(same, "") | {same[-1]: " = ".join(same)}
    names = pl.col("group").replace(of)
    if 1 < table["cell"].n_unique() and table.select(names, "cell").n_unique() <= _MOST:
        label = pl.concat_str(names, chart_parts.VALUES, separator=", ")
        names = pl.when(names != "").then(label)
    else:
        first = pl.col("cell") == pl.col("cell").min().over("group")
        names = pl.when(first).then(names)
    last = pl.col("step") == pl.col("step").max().over("group", "cell")
    table = table.with_columns(label=pl.when(last).then(names).fill_null(""), dy=-8.0)
    ends = table.with_row_index().filter(pl.col("label") != "").sort("mean")
    taken = -math.inf
    for row in ends.iter_rows(named=True):
        place = switch.place(row["mean"]) * chart_parts.HEIGHT
        taken = max(place, taken + 12)
        table[row["index"], "dy"] = place - taken - 8
    return table
