"""Figures of the final metric."""

import math

import altair as alt
import polars as pl

from runner.compare import chart_parts
from runner.compare.chart_parts import Shown
from runner.compare.columns import distinct, texts

# A heat map with more columns can't be read on a phone.
_MAX_COLUMNS = 24


def strip(shown: Shown) -> alt.LayerChart | None:
    """The final metric of each run, with the mean and 95 % interval of each group.

    A cross is a run that failed, at what it counts as. None without a finite value.
    """
    # Golden-ratio steps spread the dots of a group without a pattern or a random seed.
    spread = (pl.int_range(pl.len()).over("group") * 0.618) % 1
    ended = pl.when("failed").then(pl.lit("failed")).otherwise(pl.lit("finished"))
    analysis, by_cell = shown.analysis, len(shown.cells) > 1
    parts = ["group", chart_parts.VALUES] if by_cell else ["group"]
    row = pl.concat_str(parts, separator=", ")
    dots = shown.table.filter(pl.col("value").is_finite())
    dots = dots.with_columns(spread=spread, failed=ended, row=row)
    if dots.is_empty():
        return None
    ranked = analysis.final.in_cells if by_cell else analysis.final.groups
    names = ["group", "cell", "mean", "low", "high"]  # of the statistics; null for NaN
    rows = [(g.name, g.cell, g.mean, g.low, g.high) for g in ranked]
    means = pl.DataFrame(rows, names, orient="row").fill_nan(None).with_columns(row=row)
    means = means.filter(pl.col("group").is_in(shown.groups))
    title = f"final {analysis.metric}"
    switch = chart_parts.log_switch([*dots["value"], *means["low"], *means["high"]])
    y = alt.Y("row:N", title=None, sort=means["row"].to_list()).axis(labelLimit=180)
    hue = shown.colour().legend(None)

    def layer(data: pl.DataFrame, field: str) -> alt.Chart:
        chart = alt.Chart(chart_parts.csv(data)).transform_filter(chart_parts.SHOWN)
        return chart.encode(x=switch.encoding(alt.X, field, title), y=y, color=hue)

    named = chart_parts.tooltips(shown.names())
    value = alt.Tooltip("value:Q", title=analysis.metric)
    offset = alt.YOffset("spread:Q", scale=alt.Scale(domain=[-0.6, 1.6]))
    kinds = alt.Scale(domain=["finished", "failed"], range=["circle", "cross"])
    circles = layer(dots, "value").mark_point(size=55, opacity=0.6, filled=True)
    circles = circles.encode(
        yOffset=offset,
        shape=alt.Shape("failed:N", scale=kinds, legend=None),
        tooltip=[*named, "run:N", "seed:N", "failed:N", value],
    )
    interval = [named[0], "mean:Q", alt.Tooltip("low:Q", title="95 % from"), "high:Q"]
    lines = layer(means.drop_nulls(), "low").mark_rule(strokeWidth=2.5)
    lines = lines.encode(x2="high:Q", tooltip=interval)
    bars = layer(means.drop_nulls("mean"), "mean").mark_tick(thickness=3, size=28)
    bars = bars.encode(tooltip=interval)
    height = 40 + 40 * means.height
    return chart_parts.figure([circles, lines, bars], [switch.parameter], height)


def sensitivity(shown: Shown) -> alt.LayerChart | None:
    """The final metric against the first tuned number, a line for each group and cell.

    With several tuned keys, each point has the best values of the others. None unless a
    number was tuned over two values or more.
    """
    analysis = shown.analysis
    table, keys = analysis.final.tuning.sensitivity, analysis.final.tuning.keys
    numbers = [k for k in keys if table[k].dtype.is_numeric()]
    key = next((k for k in numbers if table[k].n_unique() > 1), None)
    if key is None:
        return None
    cell = pl.col("cell") if len(shown.cells) > 1 else pl.lit("").alias("cell")
    table = (
        table.filter(pl.col("group").is_in(shown.groups), pl.col("mean").is_finite())
        .drop_nulls(key)
        .sort("mean", descending=analysis.higher_is_better)
        .unique(["group", "cell", key], keep="first", maintain_order=True)
        .group_by("group", cell, at=key)
        .agg(
            pl.col("mean", "low", "high").mean(),
            pl.col("runs", "failed").sum(),
            pl.col("chosen").any(),
        )
        .sort("group", "cell", "at")
    )
    if table.is_empty():
        return None
    title = f"final {analysis.metric}"
    switch = chart_parts.log_switch([*table["low"], *table["high"]])
    is_log = (table["at"] > 0).all()
    tried = table["at"].unique().sort().to_list()
    x = alt.X("at:Q", title=key).axis(format="~g", labelOverlap=True, values=tried)
    x = x.scale(type="log", nice=False, padding=14) if is_log else x.scale(zero=False)
    line, base, span, parameters = chart_parts.lines(table, shown, x, switch, title)
    spans = span.mark_rule(strokeWidth=1.2, opacity=0.7)
    rings = base.transform_filter("datum.chosen")
    rings = rings.mark_point(size=190, strokeWidth=2, filled=False)
    titles = {"at:Q": key, "mean:Q": f"mean {title}", "low:Q": "lowest seed"}
    titles |= {"high:Q": "highest seed", "runs:Q": "runs", "failed:Q": "failed"}
    tooltip = chart_parts.tooltips(shown.names() | titles)
    dots = base.mark_circle(size=60, opacity=1).encode(tooltip=tooltip)
    return chart_parts.figure([spans, line, rings, dots], parameters)


def heat_map(shown: Shown) -> alt.LayerChart | None:
    """Mean of the final metric for each pair of values of two factors.

    The second factor is the first crossed one, or else the first tuned one. None
    without one, or if it has too many values to read.
    """
    analysis = shown.analysis
    others = [*analysis.crossed, *analysis.final.tuning.keys]
    if not others or len(shown.groups) < 2:
        return None
    other, value = others[0], pl.col("value")
    is_shown = pl.col("group").is_in(shown.groups) & value.is_finite()
    rows = analysis.final.rows.filter(is_shown)
    order = distinct(rows[other])
    if not 2 <= len(order) <= _MAX_COLUMNS:
        return None
    table = (
        rows.with_columns(other=pl.Series(texts(rows[other])))
        .group_by("group", "other", maintain_order=True)
        .agg(mean=value.mean(), low=value.min(), high=value.max(), runs=pl.len())
    )
    low, high = table["mean"].to_numpy().min(), table["mean"].to_numpy().max()
    spans_much = 0 < low and high > 20 * low
    scale = alt.Scale(  # its colours are theme.HEAT
        type="log" if spans_much else "linear",
        range="heatmap",
        reverse=analysis.higher_is_better,
        interpolate="lab",
    )
    middle = math.sqrt(low * high) if spans_much else (low + high) / 2
    dark = f"datum.mean {'>' if analysis.higher_is_better else '<'} {middle}"
    x = alt.X("other:N", title=other, sort=order)
    x = x.axis(labelAngle=0 if len(order) <= 5 else -40)
    titles = {"group:N": analysis.by, "other:N": other}
    titles |= {"mean:Q": f"mean {analysis.metric}", "low:Q": "lowest run"}
    titles |= {"high:Q": "highest run", "runs:Q": "runs"}
    y, tooltip = alt.Y("group:N", title=analysis.by), chart_parts.tooltips(titles)
    base = alt.Chart(chart_parts.csv(table)).encode(x=x, y=y, tooltip=tooltip)
    tiles = base.mark_rect().encode(color=alt.Color("mean:Q", scale=scale, legend=None))
    ink = alt.when(dark).then(alt.value("#fff")).otherwise(alt.value("#111"))
    # On a narrow screen the numbers would overlap: there the tooltips have them.
    fits = alt.ExprRef(f"width / {len(order)} < 42 ? 0 : 1")
    numbers = base.mark_text(fontSize=13, opacity=fits).encode(
        text=alt.Text("mean:Q", format=".3~g"), color=ink
    )
    height = 60 + 40 * table["group"].n_unique()
    return chart_parts.figure([tiles, numbers], [], height)
