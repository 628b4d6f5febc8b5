"""What the figures share: the runs shown, colours, tooltips and a log switch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import altair as alt
import numpy as np
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


class Shown(NamedTuple):
    """The runs in the statistics, as the figures show them.

    Attributes:
      by: the factor, the title of every legend.
      metric: what is compared.
      table: `run`, `group`, `cell`, `seed`, `value` (the final metric) and whether it
        `failed`, one row a run.
      groups: in natural order, so that a colour doesn't change with the results.
      cells: see `Analysis.crossed`; in natural order.
    """

    by: str
    metric: str
    table: pl.DataFrame
    groups: list[str]
    cells: list[str]

    def few_cells(self) -> "Shown":
        """Itself, or with all cells merged if there are too many to draw."""
        if len(self.cells) <= MAX_CELLS:
            return self
        return self._replace(table=self.table.with_columns(cell=pl.lit("")), cells=[""])

    def colour(self) -> alt.Color:
        """A colour for each group, the same in every figure."""
        return alt.Color("group:N", title=self.by, scale=self._scale(PALETTE))

    def dash(self) -> alt.StrokeDash:
        """A dash pattern for each group, the same in every figure."""
        return alt.StrokeDash("group:N", title=self.by, scale=self._scale(DASHES))

    def _scale(self, values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=self.groups, range=list(values[: len(self.groups)]))

    def names(self) -> dict[str, str]:
        """Titles of the fields that name a line: its group, and its cell if several."""
        return {"group": self.by} | ({"cell": "cell"} if len(self.cells) > 1 else {})

    def menu(self) -> tuple[list[alt.Parameter], str]:
        """A menu that picks one of several cells, and the filter for its choice."""
        if len(self.cells) == 1:
            return [], "true"
        menu = alt.binding_select(options=["all", *self.cells], name="only")
        parameter = alt.param(name="only_cell", value="all", bind=menu)
        return [parameter], "only_cell === 'all' || datum.cell === only_cell"


def shown(runs: Runs, analysis: Analysis) -> Shown:
    """The used runs of the best MAX_GROUPS groups."""
    groups = [group.name for group in analysis.final.groups[:MAX_GROUPS]]
    # No other column: a key of the configuration needn't be the name of a field.
    used = analysis.final.used.select("run", "group", "cell", "value", "failed")
    used = used.filter(pl.col("group").is_in(groups))
    # The statistics number missing seeds.
    table = used.join(runs.table.select("run", "seed"), on="run", maintain_order="left")
    cells = sorted(table["cell"].unique(), key=natural)
    return Shown(
        analysis.by, analysis.metric, table, sorted(groups, key=natural), cells
    )


def csv(table: pl.DataFrame) -> alt.Data:
    """`table` inline, as text: about a third of the size of a list of objects.

    Numbers keep six significant digits, enough for a tooltip.
    """
    kinds = {
        name: "number" if dtype.is_numeric() else "string"
        for name, dtype in table.schema.items()
    }
    rounded = table.with_columns(pl.col(pl.Float64).round_sig_figs(6))
    return alt.Data(
        values=rounded.write_csv(),
        format=alt.CsvDataFormat(type="csv", parse=kinds),
    )


def tooltips(titles: Mapping[str, str], kind: str = "Q") -> list[alt.Tooltip]:
    """One for each field, {field: title}; numbers unless `kind` is "N", for names."""
    return [alt.Tooltip(f"{name}:{kind}", title=titles[name]) for name in titles]


class Switch(NamedTuple):
    """An axis that a reader can make logarithmic.

    Vega-Lite fixes a scale's type when it compiles. So the values are transformed
    instead, and the axis labels show the original values.
    """

    parameter: alt.Parameter
    low: float
    high: float

    def transform(self, chart: alt.Chart, *fields: str) -> alt.Chart:
        """Adds `<field>_at`, the position on the axis, for each of `fields`."""
        for field in fields:
            value = f"datum['{field}']"
            position = f"log_scale ? log({value}) / LN10 : {value}"
            chart = chart.transform_calculate(**{f"{field}_at": position})
        return chart

    def encoding(self, kind: type, field: str, title: str) -> Any:
        """alt.X or alt.Y (`kind`) of `field`; its domain stays when data are hidden."""
        ends = [
            {"expr": f"log_scale ? {self._log(end)} : {end}"}
            for end in (self.low, self.high)
        ]
        return kind(
            f"{field}_at:Q",
            title=title,
            scale=alt.Scale(domain=ends, nice=False, zero=False),
            axis=alt.Axis(
                values=alt.ExprRef(f"log_scale ? {self._ticks()} : null"),
                labelExpr="format(log_scale ? pow(10, datum.value) : datum.value,'~g')",
                tickCount=6,
                labelOverlap=True,
            ),
        )

    def place(self, value: float) -> float:
        """Where `value` is on the axis at first: from 0, low, to 1, high."""
        parameter: Any = self.parameter.param
        is_log = parameter.value is True
        at, low, high = (
            self._log(v) if is_log else v for v in (value, self.low, self.high)
        )
        return (at - low) / (high - low)

    def _log(self, value: float) -> float:
        return math.log10(value) if value > 0 else 0.0

    def _ticks(self) -> list[float]:
        if self.low <= 0:
            return []
        low, high = self._log(self.low), self._log(self.high)
        first, last = math.floor(low), math.ceil(high)
        steps = np.log10([1, 2, 5] if last - first <= 3 else [1])
        ticks = np.add.outer(np.arange(first, last + 1), steps).ravel()
        return [tick for tick in ticks.tolist() if low <= tick <= high]


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


def nearest(*fields: str) -> alt.Parameter:
    """Selects the item nearest to the mouse, and all with the same `fields`."""
    return alt.selection_point(
        name="near",
        fields=list(fields),
        nearest=True,
        on="pointerover",
        clear="pointerout",
        empty=False,
    )


def dots(
    base: alt.Chart, near: alt.Parameter, names: Mapping[str, str], *tooltip: Any
) -> alt.Chart:
    """Dots of `base` that are visible while selected by `near`.

    Args:
      names: titles of the text fields in the tooltip, {field: title}.
      tooltip: further fields in it.

    With a nearest-point selection Vega-Lite looks for names, unlike numbers, in the
    mark's item instead of the row (https://github.com/vega/vega-lite/pull/9707). So
    the names go through `description`, which both of them have.
    """
    joined = " + ', ' + ".join(f"datum.{field}" for field in names)
    title = ", ".join(names.values())
    visible = alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
    return (
        base.transform_calculate(description=joined)
        .properties(name="hover_dots")
        .mark_circle(size=50)
        .encode(
            opacity=visible,
            description="description:N",
            tooltip=[alt.Tooltip("description:N", title=title), *tooltip],
        )
        .add_params(near)
    )


def figure(
    layers: Sequence[alt.Chart],
    parameters: Sequence[alt.Parameter],
    height: int = HEIGHT,
) -> alt.LayerChart:
    """`layers` on top of each other, as wide as the page gives; `height` in pixels."""
    chart = alt.layer(*layers).properties(width="container", height=height)
    return cast(alt.LayerChart, chart.add_params(HIDDEN, *parameters))
