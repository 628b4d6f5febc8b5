"""Figures of metrics against the step: one line for each group and cell."""

import math
from typing import Any

import altair as alt
import polars as pl

from runner.compare import chart_parts
from runner.compare.load import Runs

# More rows than this are thinned, at equal distances in steps, to keep the page small.
MAX_ROWS = 6_000

# Each notch of the smoothing slider averages so many points on either side.
_REACHES = (1, 2, 4, 8, 16)


def curves(runs: Runs, shown: chart_parts.Shown, metric: str) -> alt.LayerChart | None:
    """Mean of `metric` over seeds against the step, with a band from lowest to highest.

    None if there are fewer than two steps with a finite value.
    """
    shown = shown.few_cells()
    table = aggregate(runs, shown, metric)
    if table.is_empty() or table["step"].n_unique() < 2:
        return None
    return _layers(table, shown, metric)


def aggregate(runs: Runs, shown: chart_parts.Shown, metric: str) -> pl.DataFrame:
    """`group`, `cell`, `step`, `mean`, `low`, `high`, `runs`: about MAX_ROWS at most.

    Thinned by leaving out steps, never by averaging neighbours: every point was logged.
    `runs` counts the runs with a finite value at that step; others are left out.
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
    index = pl.int_range(pl.len()).over(*keys)
    last = pl.col("step") == pl.col("step").max().over(*keys)
    return table.filter((index % max(every, 1) == 0) | last)


def _smoothed(chart: alt.Chart) -> alt.Chart:
    """Adds `mean_s`, `low_s` and `high_s`, smoothed as the slider says."""
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
    table: pl.DataFrame, shown: chart_parts.Shown, metric: str
) -> alt.LayerChart:
    switch = chart_parts.log_switch([*table["low"], *table["high"]])
    slider = alt.binding_range(min=0, max=len(_REACHES), step=1, name="smoothing")
    smoothing = alt.param(name="smoothing", value=0, bind=slider)
    menu, in_cell = shown.menu()
    ends: list[Any] = [table["step"].min(), table["step"].max()]
    x = alt.X("step:Q").axis(tickCount=6, tickMinStep=1)
    x = x.scale(domain=ends, nice=False)
    base = _smoothed(alt.Chart(chart_parts.csv(table)))
    base = base.transform_filter(f"{chart_parts.SHOWN} && ({in_cell})")
    base = switch.transform(base, "mean_s", "low_s", "high_s").encode(
        x=x,
        y=switch.encoding(alt.Y, "mean_s", metric),
        color=shown.colour(),
        detail="cell:N",
    )
    band = base.mark_area(opacity=0.16).encode(
        y=switch.encoding(alt.Y, "low_s", metric), y2="high_s_at:Q"
    )
    line = base.mark_line(strokeWidth=1.8, strokeJoin="round")
    line = line.encode(strokeDash=shown.dash())
    near = chart_parts.nearest("step")
    titles = {"step": "step", "mean": f"mean {metric}"}
    titles |= {"low": "lowest run", "high": "highest run", "runs": "runs"}
    numbers = chart_parts.tooltips(titles)
    dots = chart_parts.dots(base, near, shown.names(), *numbers)
    steps = chart_parts.csv(table.select("step").unique(maintain_order=True))
    rule = alt.Chart(steps, name="hover_rule").mark_rule().encode(x=x)
    rule = rule.transform_filter(near)
    return chart_parts.figure(
        [band, rule, line, dots], [switch.parameter, smoothing, *menu]
    )
