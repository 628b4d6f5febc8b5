"""The figures of a comparison, as Vega-Lite charts."""

from collections.abc import Iterator
from typing import NamedTuple

import altair as alt

from runner.compare import chart_parts
from runner.compare.analysis import Analysis
from runner.compare.costs import axes
from runner.compare.curves import aggregate, curves, identical
from runner.compare.final_charts import heat_map, sensitivity, strip
from runner.compare.load import Runs

_RATE = "train/learning_rate"


class Figure(NamedTuple):
    """A figure of the page; `name` is its file's, such as "final" of final.png."""

    name: str
    title: str
    caption: str
    chart: alt.LayerChart


def figures(runs: Runs, analysis: Analysis) -> Iterator[Figure]:
    """Every figure that has something to show for these runs, in reading order."""
    metric, shown = analysis.metric, chart_parts.shown(runs, analysis)
    if chart := strip(shown):
        text = (
            "Dots are runs; bars are means over seeds, with their 95 % intervals. "
            "Crosses are runs that failed, at the worst value with which a run began "
            "or ended."
        )
        yield Figure("final", f"Final {metric}", text, chart)
    if chart := sensitivity(shown):
        text = (
            "Mean final value of the runs that did not fail, with a line from the "
            "lowest to the highest seed. A ring marks the best setting of a group."
        )
        yield Figure("sensitivity", "Sensitivity to tuning", text, chart)
    if chart := heat_map(shown):
        text = f"Mean final {metric} over all runs. Stronger blue is better."
        yield Figure("heat_map", "Two factors", text, chart)
    for name in dict.fromkeys((metric, "validation/loss", "train/loss", _RATE)):
        for axis, unit in axes(runs.table).items():
            # The same at another cost says something new only of what is compared.
            if axis == "step" or name == metric:
                yield from _curves(shown, name, axis, unit)


def _curves(
    shown: chart_parts.Shown, metric: str, axis: str, unit: str
) -> Iterator[Figure]:
    analysis = shown.analysis
    table = aggregate(analysis.curves, shown, metric, axis)
    if table["at"].n_unique() < 2:
        return
    text = "Mean over seeds; the band spans the lowest to the highest."
    keys = ", ".join(analysis.crossed)
    if len(shown.cells) > 1:
        text += f" One line for each group and each value of {keys}."
    elif keys:
        text = "Mean over all runs of a group; the band spans lowest to highest."
    for same in identical(table):
        text += f" {', '.join(same[:-1])} and {same[-1]} are identical."
    if metric == analysis.metric and shown.table["failed"].any():
        text += " A run that failed counts as the worst after its last value."
    name, title = metric.replace("/", "_"), metric
    if metric == _RATE:
        name, title = "learning_rate", "Learning rate"
    if axis != "step":
        name, title = f"{name}_by_{unit.lower()}", f"{title} by {unit}"
    yield Figure(name, title, text, curves(table, shown, metric, unit))
