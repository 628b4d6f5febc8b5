"""What the figures share: the runs shown, colours, tooltips and a log switch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import altair as alt
import polars as pl

from runner.compare.analysis import Analysis
from runner.compare.load import Runs, natural
from runner.compare.theme import DASHES, PALETTE

MAX_GROUPS = len(PALETTE)
MAX_CELLS = 8
HEIGHT = 320  # pixels

# The names that are unchecked in the page's legend, which sets this in all figures.
HIDDEN = alt.param(name="hidden", value=[])
SHOWN = "indexof(hidden, datum.group) < 0"

# A cell without its keys.
VALUES = pl.col("cell").str.replace_all(r"[^ ,=]*=", "")


class Shown(NamedTuple):
    """The runs in the statistics, as the figures show them.

    Attributes:
      analysis: where they are from; its factor is the title of every legend.
      table: `run`, `group`, `cell`, `seed`, `value` (the final metric) and whether it
        `failed`, one row a run.
      groups: in natural order, so that a colour doesn't change with the results.
      cells: see `Analysis.crossed`; in natural order. Only "" if MAX_CELLS are not
        enough.
    """

    analysis: Analysis
    table: pl.DataFrame
    groups: list[str]
    cells: list[str]

    def colour(self) -> alt.Color:
        """A colour for each group, the same in every figure."""
        return alt.Color("group:N", title=self.analysis.by, scale=self.scale(PALETTE))

    def scale(self, values: Sequence[Any]) -> alt.Scale:
        """One of `values` for each group, the same in every figure."""
        return alt.Scale(domain=self.groups, range=list(values[: len(self.groups)]))

    def names(self) -> dict[str, str]:
        """Titles of the fields that name a line: its group, and its cell if several."""
        cell = {"cell:N": "cell"} if len(self.cells) > 1 else {}
        return {"group:N": self.analysis.by} | cell


def shown(runs: Runs, analysis: Analysis) -> Shown:
    """The used runs of the best MAX_GROUPS groups."""
    groups = [group.name for group in analysis.final.groups[:MAX_GROUPS]]
    # No other column: a key of the configuration needn't be the name of a field.
    used = analysis.final.used.select("run", "group", "cell", "value", "failed")
    used = used.filter(pl.col("group").is_in(groups))
    # The statistics number missing seeds.
    table = used.join(runs.table.select("run", "seed"), on="run", maintain_order="left")
    if table["cell"].n_unique() > MAX_CELLS:
        table = table.with_columns(cell=pl.lit(""))
    cells = sorted(table["cell"].unique(), key=natural)
    return Shown(analysis, table, sorted(groups, key=natural), cells)


def csv(table: pl.DataFrame) -> alt.Data:
    """`table` inline, as text: about a third of the size of a list of objects.

    Numbers keep six significant digits, enough for a tooltip.
    """
    kinds = {
        name: {pl.String: "string", pl.Boolean: "boolean"}.get(type(dtype), "number")
        for name, dtype in table.schema.items()
    }
    rounded = table.with_columns(pl.col(pl.Float64).round_sig_figs(6))
    form = alt.CsvDataFormat(type="csv", parse=kinds)
    return alt.Data(values=rounded.write_csv(), format=form)


def tooltips(titles: Mapping[str, str]) -> list[alt.Tooltip]:
    """One for each field, {field and type: title}, such as {"mean:Q": "mean loss"}."""
    return [alt.Tooltip(field, title=title) for field, title in titles.items()]


class Switch(NamedTuple):
    """An axis that a reader can make logarithmic.

    Vega-Lite fixes a scale's type when it compiles. So it is always "symlog", which is
    linear below its constant and logarithmic above: all values are on one side of it.
    """

    parameter: alt.Parameter
    low: float
    high: float

    def encoding(self, kind: type, field: str, title: str) -> Any:
        """alt.X or alt.Y (`kind`) of `field`; its domain stays when data are hidden."""
        size = max(abs(self.low), abs(self.high))
        return kind(
            f"{field}:Q",
            title=title,
            scale=alt.Scale(
                type="symlog",
                constant=alt.ExprRef(f"log_scale ? {self.low} / 1e3 : {size} * 1e6"),
                domain=[self.low, self.high],
                nice=False,
                zero=False,
            ),
            axis=alt.Axis(
                values=alt.ExprRef(f"log_scale ? {self._ticks()} : null"),
                labelExpr="format(datum.value, '~g')",
                tickCount=6,
                labelOverlap=True,
            ),
        )

    def place(self, value: float) -> float:
        """Where `value` is on the axis at first: from 0, low, to 1, high."""
        parameter: Any = self.parameter.param
        of = math.log10 if parameter.value is True else float
        return (of(value) - of(self.low)) / (of(self.high) - of(self.low))

    def _ticks(self) -> list[float]:
        """1, 2 and 5 of each power of ten, or of many powers 1 alone."""
        if self.low <= 0:
            return []
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        powers = [10.0**power for power in range(first, last + 1)]
        steps = [1, 2, 5] if last - first <= 3 else [1]
        ticks = [step * power for power in powers for step in steps]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def log_switch(values: Iterable[float | None]) -> Switch:
    """A switch for an axis of `values`; on at first if they differ by a factor of 50.

    Values that aren't all positive get a linear axis and no switch.
    """
    finite = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low <= 1e-3 * abs(high):  # no difference, so it must not fill the figure
        low, high = min(0.5 * low, 1.5 * low), max(0.5 * high, 1.5 * high)
    margin = 0.03 * (high - low) or 1.0
    if low <= 0:
        off = alt.param(name="log_scale", value=False)
        return Switch(off, low - margin, high + margin)
    box = alt.binding_checkbox(name="logarithmic")
    parameter = alt.param(name="log_scale", value=high > 50 * low, bind=box)
    # A logarithmic axis must not reach zero.
    return Switch(parameter, low - min(margin, low / 2), high + margin)


def lines(
    table: pl.DataFrame, shown: Shown, x: alt.X, switch: Switch, title: str
) -> tuple[alt.Chart, alt.Chart, alt.Chart, list[alt.Parameter]]:
    """What a figure of lines consists of, one for each group and cell in `table`.

    Returns:
      the lines of `mean`, the same without a mark, a chart that spans `low` to `high`,
      without one too, and the figure's parameters: the switch, and a menu that picks
      one of several cells.
    """
    parameters, visible = [switch.parameter], SHOWN
    if len(shown.cells) > 1:
        menu = alt.binding_select(options=["all", *shown.cells], name="only")
        parameters.append(alt.param(name="only_cell", value="all", bind=menu))
        visible += " && (only_cell === 'all' || datum.cell === only_cell)"
    base = alt.Chart(csv(table)).transform_filter(visible)
    base = base.encode(x=x, color=shown.colour(), detail="cell:N")
    span = base.encode(y=switch.encoding(alt.Y, "low", title), y2="high:Q")
    base = base.encode(y=switch.encoding(alt.Y, "mean", title))
    dash = alt.StrokeDash("group:N", title=shown.analysis.by, scale=shown.scale(DASHES))
    line = base.mark_line(strokeWidth=1.8, strokeJoin="round").encode(strokeDash=dash)
    return line, base, span, parameters


def figure(
    layers: list[alt.Chart], parameters: list[alt.Parameter], height: int = HEIGHT
) -> alt.LayerChart:
    """`layers` on top of each other, as wide as the page gives; `height` in pixels."""
    chart = alt.layer(*layers).properties(width="container", height=height)
    return cast(alt.LayerChart, chart.add_params(HIDDEN, *parameters))
