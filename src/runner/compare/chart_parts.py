"""What the figures share: which runs they show, colours, and a logarithmic switch."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import altair as alt
import polars as pl

from runner.compare.analysis import Analysis
from runner.compare.columns import cell_keys, texts
from runner.compare.load import Runs, natural
from runner.compare.theme import DASHES, PALETTE

MAX_GROUPS = len(PALETTE)
MAX_CELLS = 8

# Page-wide state, which the page's list of series sets: names that are switched off.
HIDDEN = alt.param(name="hidden", value=[])
SHOWN = "indexof(hidden, datum.group) < 0"


class Shown(NamedTuple):
    """The runs that the statistics are from, as the figures show them.

    Attributes:
      table: `run`, `group`, `cell`, `seed`, `value` (the final metric), one row a run.
      groups: in natural order, so that a colour doesn't change with the results.
      cells: each combination of what is crossed with the groups, in natural order.
    """

    table: pl.DataFrame
    groups: list[str]
    cells: list[str]

    def few_cells(self) -> "Shown":
        """Itself, or with all cells as one if they are more than can be drawn."""
        if len(self.cells) <= MAX_CELLS:
            return self
        return Shown(self.table.with_columns(cell=pl.lit("")), self.groups, [""])


def shown(runs: Runs, analysis: Analysis) -> Shown:
    """The used runs of the best MAX_GROUPS groups."""
    keys = crossed(runs, analysis)
    used = runs.table.filter(pl.col("run").is_in(analysis.used))
    settings = zip(*(texts(used[key]) for key in keys), strict=True)
    named = [", ".join(map("=".join, zip(keys, row, strict=True))) for row in settings]
    groups = [group.name for group in analysis.groups[:MAX_GROUPS]]
    table = used.select(
        "run",
        "seed",
        group=pl.Series(texts(used[analysis.by]), dtype=pl.String),
        cell=pl.Series(named or [""] * used.height, dtype=pl.String),
        value=f"final.{analysis.metric}",
    ).filter(pl.col("group").is_in(groups))
    cells = sorted(table["cell"].unique(), key=natural)
    return Shown(table, sorted(groups, key=natural), cells)


def crossed(runs: Runs, analysis: Analysis) -> list[str]:
    """The columns whose combinations are the cells."""
    return cell_keys(finished(runs), analysis.by, analysis.tuning.keys)


def finished(runs: Runs) -> pl.DataFrame:
    """The runs that `analyse` looks at."""
    return runs.table.filter(pl.col("status") == "finished")


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


def colour(groups: Sequence[str], title: str) -> alt.Color:
    """A colour for each group, the same in every figure."""
    return alt.Color(
        "group:N",
        title=title,
        scale=alt.Scale(domain=list(groups), range=list(PALETTE[: len(groups)])),
    )


def dash(groups: Sequence[str], title: str) -> alt.StrokeDash:
    """Dashes for each group, the same in every figure."""
    return alt.StrokeDash(
        "group:N",
        title=title,
        scale=alt.Scale(domain=list(groups), range=list(DASHES[: len(groups)])),
    )


class Switch(NamedTuple):
    """An axis that a reader can make logarithmic.

    Vega-Lite fixes a scale's type when it compiles. So the values are transformed
    instead, and the axis is labelled with what they were.
    """

    parameter: alt.Parameter
    low: float
    high: float

    def transform(self, chart: alt.Chart, *fields: str) -> alt.Chart:
        """Adds `<field>_at`, the place on the axis, for each of `fields`."""
        for field in fields:
            value = f"datum['{field}']"
            place = f"log_scale ? log({value}) / LN10 : {value}"
            chart = chart.transform_calculate(**{f"{field}_at": place})
        return chart

    def encoding(self, kind: type, field: str, title: str) -> Any:
        """alt.X or alt.Y (`kind`) of `field`, over a domain that stays as it is."""
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

    def _log(self, value: float) -> float:
        return math.log10(value) if value > 0 else 0.0

    def _ticks(self) -> list[float]:
        if self.low <= 0:
            return []
        decades = range(
            math.floor(self._log(self.low)), math.ceil(self._log(self.high))
        )
        few = len(decades) <= 3
        steps = [math.log10(m) for m in ((1, 2, 5) if few else (1,))]
        ticks = [decade + step for decade in [*decades, decades.stop] for step in steps]
        return [t for t in ticks if self._log(self.low) <= t <= self._log(self.high)]


def log_switch(values: Iterable[float | None]) -> Switch:
    """A switch for an axis that shows `values`; on at first if they span much.

    Values that aren't all positive get a linear axis and no switch.
    """
    finite = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    parameter = alt.param(name="log_scale", value=False)
    if low > 0:
        bind = alt.binding_checkbox(name="logarithmic")
        parameter = alt.param(name="log_scale", value=high > 50 * low, bind=bind)
    room = 0.03 * (high - low) or 0.03 * abs(high) or 1.0
    # The margin below a positive value must not reach zero, where a logarithm ends.
    return Switch(
        parameter, low - (min(room, low / 2) if low > 0 else room), high + room
    )


def cell_menu(shown: Shown) -> tuple[list[alt.Parameter], str]:
    """A choice of one cell if there are several, and the filter that it makes."""
    if len(shown.cells) == 1:
        return [], "true"
    menu = alt.binding_select(options=["all", *shown.cells], name="only")
    parameter = alt.param(name="only_cell", value="all", bind=menu)
    return [parameter], "only_cell === 'all' || datum.cell === only_cell"


def names(shown: Shown, by: str) -> list[alt.Tooltip]:
    """Tooltips of the group and, if there are several, of the cell."""
    cell = [alt.Tooltip("cell:N", title="where")] if len(shown.cells) > 1 else []
    return [alt.Tooltip("group:N", title=by), *cell]


def nearest(*fields: str) -> alt.Parameter:
    """Selects the item nearest to the mouse and all that have its `fields`."""
    return alt.selection_point(
        name="near",
        fields=list(fields),
        nearest=True,
        on="pointerover",
        clear="pointerout",
        empty=False,
    )


def dots(
    base: alt.Chart, near: alt.Parameter, names: dict[str, str], *tooltip: Any
) -> alt.Chart:
    """Dots of `base` that are seen while selected by `near`.

    Args:
      names: titles of fields that hold text, {field: title}.
      tooltip: what else it tells.

    With a nearest-point selection Vega-Lite looks for names, unlike numbers, in the
    mark's item instead of the row (https://github.com/vega/vega-lite/pull/9707). So
    the names go through `description`, which both of them have.
    """
    told = " + ', ' + ".join(f"datum.{field}" for field in names)
    title = ", ".join(names.values())
    seen = alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
    return (
        base.transform_calculate(description=told)
        .properties(name="hover_dots")
        .mark_circle(size=50)
        .encode(
            opacity=seen,
            description="description:N",
            tooltip=[alt.Tooltip("description:N", title=title), *tooltip],
        )
        .add_params(near)
    )


def figure(
    layers: Sequence[alt.Chart], parameters: Sequence[alt.Parameter], height: int = 320
) -> alt.LayerChart:
    """`layers` on top of each other, as wide as the page gives; `height` in pixels."""
    chart = alt.layer(*layers).properties(width="container", height=height)
    return cast(alt.LayerChart, chart.add_params(HIDDEN, *parameters))
