"""Figures of what was logged while the runs went: one line a group and cell."""

import math
from typing import Any

import altair as alt
import polars as pl

from runner.compare import chart_parts
from runner.compare.analysis import Analysis
from runner.compare.load import Runs

# A figure's page share: more rows than this are thinned, at equal distances in steps.
MAX_ROWS = 6_000

# Points on each side that each notch of the smoothing slider averages.
_REACHES = (1, 2, 4, 8, 16)


def curves(runs: Runs, analysis: Analysis, metric: str) -> alt.LayerChart | None:
    """Mean of `metric` over seeds against the step, with a band from lowest to highest.

    One line for each group and each combination of what is crossed with the groups.
    None if no run has two finite values of it.
    """
    shown = chart_parts.shown(runs, analysis).few_cells()
    table = aggregate(runs, shown, metric)
    if table.is_empty() or table["step"].n_unique() < 2:
        return None
    switch = chart_parts.log_switch([*table["low"], *table["high"]])
    return _layers(table, shown, switch, analysis.by, metric)


def aggregate(runs: Runs, shown: chart_parts.Shown, metric: str) -> pl.DataFrame:
    """`group`, `cell`, `step`, `mean`, `low`, `high`, `runs`: at most MAX_ROWS or so.

    Thinned by leaving out steps, never by averaging neighbours: what is drawn was
    logged. Values that are not finite are left out, so `runs` tells how many are in.
    """
    if metric not in runs.curves:
        return pl.DataFrame(schema={"step": pl.Int64})
    keys = ["group", "cell"]
    value = pl.col(metric)
    table = (
        runs.curves.lazy()
        .select("run", "step", metric)
        .filter(value.is_finite())
        .join(shown.table.lazy().select("run", *keys), on="run")
        .group_by(*keys, "step")
        .agg(mean=value.mean(), low=value.min(), high=value.max(), runs=pl.len())
        .sort(*keys, "step")
        .collect()
    )
    every = math.ceil(table.height / MAX_ROWS)
    place = pl.int_range(pl.len()).over(*keys)
    last = pl.col("step") == pl.col("step").max().over(*keys)
    return table.filter((place % max(every, 1) == 0) | last)


def _smoothed(chart: alt.Chart) -> alt.Chart:
    """Adds `mean_s`, `low_s` and `high_s` at the slider's notch."""
    fields = ("mean", "low", "high")
    for reach in _REACHES:
        windows: list[Any] = [
            {"op": "mean", "field": field, "as": f"{field}{reach}"} for field in fields
        ]
        chart = chart.transform_window(
            windows,
            frame=[-reach, reach],
            groupby=["group", "cell"],
            sort=[alt.SortField("step")],
        )
    for field in fields:
        notches = ", ".join(f"datum.{field}{r}" for r in ("", *_REACHES))
        chart = chart.transform_calculate(**{f"{field}_s": f"[{notches}][smoothing]"})
    return chart


def _layers(
    table: pl.DataFrame,
    shown: chart_parts.Shown,
    switch: chart_parts.Switch,
    by: str,
    metric: str,
) -> alt.LayerChart:
    slider = alt.binding_range(min=0, max=len(_REACHES), step=1, name="smoothing")
    smoothing = alt.param(name="smoothing", value=0, bind=slider)
    menu, in_cell = chart_parts.cell_menu(shown)
    ends: list[Any] = [table["step"].min(), table["step"].max()]
    x = alt.X("step:Q").axis(tickCount=6, tickMinStep=1)
    x = x.scale(domain=ends, nice=False)
    base = _smoothed(alt.Chart(chart_parts.csv(table)))
    base = base.transform_filter(f"{chart_parts.SHOWN} && ({in_cell})")
    base = switch.transform(base, "mean_s", "low_s", "high_s").encode(
        x=x,
        y=switch.encoding(alt.Y, "mean_s", metric),
        color=chart_parts.colour(shown.groups, by),
        detail="cell:N",
    )
    band = base.mark_area(opacity=0.16).encode(
        y=switch.encoding(alt.Y, "low_s", metric), y2="high_s_at:Q"
    )
    line = base.mark_line(strokeWidth=1.8, strokeJoin="round").encode(
        strokeDash=chart_parts.dash(shown.groups, by)
    )
    near = chart_parts.nearest("step")
    dots = chart_parts.dots(
        base,
        near,
        {"group": by} | ({"cell": "where"} if len(shown.cells) > 1 else {}),
        *_numbers(metric),
    )
    steps = chart_parts.csv(table.select("step").unique(maintain_order=True))
    rule = alt.Chart(steps, name="hover_rule").mark_rule().encode(x=x)
    rule = rule.transform_filter(near)
    return chart_parts.figure(
        [band, rule, line, dots], [switch.parameter, smoothing, *menu]
    )


def _numbers(metric: str) -> list[alt.Tooltip]:
    titles = {"step": "step", "mean": f"mean {metric}"}
    titles |= {"low": "lowest run", "high": "highest run", "runs": "runs"}
    return [alt.Tooltip(f"{field}:Q", title=title) for field, title in titles.items()]
