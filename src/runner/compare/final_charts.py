"""Figures of the final metric."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from runner.compare import chart_parts
from runner.compare.analysis import Analysis
from runner.compare.chart_parts import Shown
from runner.compare.columns import distinct, texts
from runner.compare.statistics import Group

# A heat map with more columns can't be read on a phone.
_MAX_COLUMNS = 24


def strip(shown: Shown, analysis: Analysis) -> alt.LayerChart | None:
    """The final metric of each run, with the mean and 95 % interval of each group.

    A cross is a run that failed, at what it counts as. None without a finite value.
    """
    # Golden-ratio steps spread the dots of a group without a pattern or a random seed.
    spread = (pl.int_range(pl.len()).over("group") * 0.618) % 1
    ended = pl.when("failed").then(pl.lit("failed")).otherwise(pl.lit("finished"))
    dots = shown.table.filter(pl.col("value").is_finite())
    dots = dots.with_columns(spread=spread, failed=ended)
    if dots.is_empty():
        return None
    by_cell = 1 < len(shown.cells) <= chart_parts.MAX_CELLS
    values = pl.col("cell").str.replace_all(r"[^ ,=]*=", "")  # without their keys
    row = pl.concat_str("group", values, separator=", ") if by_cell else pl.col("group")
    dots = dots.with_columns(row=row)
    ranked = analysis.final.in_cells if by_cell else analysis.final.groups
    means = _means(ranked).filter(pl.col("group").is_in(shown.groups))
    means = means.with_columns(row=row)
    title = f"final {analysis.metric}"
    switch = chart_parts.log_switch([*dots["value"], *means["low"], *means["high"]])
    y = alt.Y("row:N", title=None, sort=means["row"].to_list()).axis(labelLimit=180)
    hue = shown.colour().legend(None)

    def layer(data: pl.DataFrame, *fields: str) -> alt.Chart:
        chart = alt.Chart(chart_parts.csv(data)).transform_filter(chart_parts.SHOWN)
        x = switch.encoding(alt.X, fields[0], title)
        return switch.transform(chart, *fields).encode(x=x, y=y, color=hue)

    names = chart_parts.tooltips(shown.names(), "N")
    value = alt.Tooltip("value:Q", title=analysis.metric)
    offset = alt.YOffset("spread:Q", scale=alt.Scale(domain=[-0.6, 1.6]))
    kinds = alt.Scale(domain=["finished", "failed"], range=["circle", "cross"])
    circles = layer(dots, "value").mark_point(size=55, opacity=0.6, filled=True)
    circles = circles.encode(
        yOffset=offset,
        shape=alt.Shape("failed:N", scale=kinds, legend=None),
        tooltip=[*names, "run:N", "seed:N", "failed:N", value],
    )
    interval = ["mean:Q", alt.Tooltip("low:Q", title="95 % from"), "high:Q"]
    lines = layer(means.drop_nulls(), "low", "high").mark_rule(strokeWidth=2.5)
    lines = lines.encode(x2="high_at:Q", tooltip=[names[0], *interval])
    bars = layer(means.drop_nulls("mean"), "mean").mark_tick(thickness=3, size=28)
    bars = bars.encode(tooltip=[names[0], *interval])
    return chart_parts.figure(
        [circles, lines, bars], [switch.parameter], height=40 + 40 * means.height
    )


def _means(ranked: Sequence[Group]) -> pl.DataFrame:
    """`group`, `cell`, `mean`, `low`, `high` of the statistics; null for NaN."""
    rows = [(g.name, g.cell, g.mean, g.low, g.high) for g in ranked]
    names = ["group", "cell", "mean", "low", "high"]
    return pl.DataFrame(rows, names, orient="row").fill_nan(None)


def sensitivity(shown: Shown, analysis: Analysis) -> alt.LayerChart | None:
    """The final metric against the first tuned number, a line for each group and cell.

    With several tuned keys, each point has the best values of the others. None unless a
    number was tuned over two values or more.
    """
    shown = shown.few_cells()
    table = analysis.final.tuning.sensitivity
    numbers = [k for k in analysis.final.tuning.keys if table[k].dtype.is_numeric()]
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
    return _sensitivity(table, shown, f"final {analysis.metric}", key)


def _sensitivity(
    table: pl.DataFrame, shown: Shown, title: str, key: str
) -> alt.LayerChart:
    switch = chart_parts.log_switch([*table["low"], *table["high"]])
    is_log = (table["at"] > 0).all()
    tried = table["at"].unique().sort().to_list()
    x = alt.X("at:Q", title=key).axis(format="~g", labelOverlap=True, values=tried)
    x = x.scale(type="log", nice=False, padding=14) if is_log else x.scale(zero=False)
    menu, in_cell = shown.menu()
    data = chart_parts.csv(table.with_columns(pl.col("chosen").cast(pl.Int8)))
    base = alt.Chart(data)
    base = base.transform_filter(f"{chart_parts.SHOWN} && ({in_cell})")
    base = switch.transform(base, "mean", "low", "high").encode(
        x=x, color=shown.colour(), detail="cell:N"
    )
    y = switch.encoding(alt.Y, "mean", title)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=shown.dash())
    spans = base.mark_rule(strokeWidth=1.2, opacity=0.7).encode(
        y=switch.encoding(alt.Y, "low", title), y2="high_at:Q"
    )
    chosen = base.transform_filter("datum.chosen == 1")
    rings = chosen.mark_point(size=190, strokeWidth=2, filled=False).encode(y=y)
    titles = {"at": key, "mean": f"mean {title}", "low": "lowest seed"}
    titles |= {"high": "highest seed", "runs": "runs", "failed": "failed"}
    names = chart_parts.tooltips(shown.names(), "N")
    tooltip = [*names, *chart_parts.tooltips(titles)]
    dots = base.mark_circle(size=60, opacity=1).encode(y=y, tooltip=tooltip)
    return chart_parts.figure([spans, line, rings, dots], [switch.parameter, *menu])


def heat_map(shown: Shown, analysis: Analysis) -> alt.LayerChart | None:
    """Mean of the final metric for each pair of values of two factors.

    The second factor is the first crossed one, or else the first tuned one. None
    without one, or if it has too many values to read.
    """
    others = [*analysis.crossed, *analysis.final.tuning.keys]
    if not others or len(shown.groups) < 2:
        return None
    rows = analysis.final.rows.with_columns(
        other=pl.Series(texts(analysis.final.rows[others[0]]))
    )
    value = pl.col("value")
    table = (
        rows.filter(pl.col("group").is_in(shown.groups), value.is_finite())
        .group_by("group", "other", maintain_order=True)
        .agg(mean=value.mean(), low=value.min(), high=value.max(), runs=pl.len())
    )
    order = [o for o in distinct(rows[others[0]]) if o in table["other"]]
    if not 2 <= len(order) <= _MAX_COLUMNS:
        return None
    return _heat_map(table, analysis, others[0], order)


def _heat_map(
    table: pl.DataFrame, analysis: Analysis, other: str, order: list[str]
) -> alt.LayerChart:
    low, high = table["mean"].min(), table["mean"].max()
    spans_much = 0 < low and high > 20 * low  # type: ignore[operator]
    scale = alt.Scale(  # its colours are theme.HEAT
        type="log" if spans_much else "linear",
        range="heatmap",
        reverse=analysis.higher_is_better,
        interpolate="lab",
    )
    shade = pl.col("mean").log() if spans_much else pl.col("mean")
    shade = (shade - shade.min()) / (shade.max() - shade.min())
    dark = (shade > 0.5) if analysis.higher_is_better else (shade < 0.5)
    x = alt.X("other:N", title=other, sort=order)
    x = x.axis(labelAngle=0 if len(order) <= 5 else -40)
    data = chart_parts.csv(table.with_columns(dark=dark.cast(pl.Int8)))
    base = alt.Chart(data).encode(x=x, y=alt.Y("group:N", title=analysis.by))
    titles = {"mean": f"mean {analysis.metric}", "low": "lowest run"}
    titles |= {"high": "highest run", "runs": "runs"}
    names = chart_parts.tooltips({"group": analysis.by, "other": other}, "N")
    tooltip = [*names, *chart_parts.tooltips(titles)]
    tiles = base.mark_rect().encode(
        color=alt.Color("mean:Q", scale=scale, legend=None), tooltip=tooltip
    )
    ink = (
        alt.when("datum.dark == 1").then(alt.value("#fff")).otherwise(alt.value("#111"))
    )
    # On a narrow screen the numbers would overlap: there the tooltips have them.
    fits = alt.ExprRef(f"width / {len(order)} < 42 ? 0 : 1")
    numbers = base.mark_text(fontSize=13, opacity=fits).encode(
        text=alt.Text("mean:Q", format=".3~g"), color=ink, tooltip=tooltip
    )
    return chart_parts.figure(
        [tiles, numbers], [], height=60 + 40 * table["group"].n_unique()
    )
