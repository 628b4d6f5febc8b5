"""The figures of a comparison, as Vega-Lite charts."""

from collections.abc import Iterator
from typing import NamedTuple

import altair as alt

from runner.compare import chart_parts
from runner.compare.analysis import Analysis
from runner.compare.curves import curves
from runner.compare.final_charts import heat_map, sensitivity, strip
from runner.compare.load import Runs
from runner.compare.performance_profile import profile


class Figure(NamedTuple):
    """A figure of the page; `name` is its file's, such as "final" of final.png."""

    name: str
    title: str
    caption: str
    chart: alt.LayerChart


def figures(runs: Runs, analysis: Analysis) -> Iterator[Figure]:
    """Every figure that has something to show for these runs, in reading order."""
    metric, shown = analysis.metric, chart_parts.shown(runs, analysis)
    if chart := strip(shown, analysis):
        text = "Dots are runs; bars are means over seeds, with their 95 % intervals."
        yield Figure("final", f"Final {metric}", text, chart)
    if chart := sensitivity(shown, analysis):
        text = (
            "Mean final value, with a line from the lowest to the highest seed. A ring "
            "marks the setting at which a group is compared."
        )
        yield Figure("sensitivity", "Sensitivity to tuning", text, chart)
    if chart := heat_map(runs, shown, analysis):
        text = f"Mean final {metric} over all finished runs. Darker is better."
        yield Figure("heat_map", "Two factors", text, chart)
    if chart := profile(shown, analysis.higher_is_better):
        text = (
            "The share of problems on which a group came within a factor of the best. "
            "A problem is one seed in one cell. At 1: how often it was the best. "
            "Higher is better."
        )
        yield Figure("profile", "Performance profile", text, chart)
    text = "Mean over seeds; the band spans the lowest to the highest."
    cells = len(shown.cells)
    if cells > chart_parts.MAX_CELLS:
        text = "Mean over all runs of a group; the band spans lowest to highest."
    elif cells > 1:
        keys = ", ".join(analysis.crossed)
        text += f" One line for each group and each value of {keys}."
    for name in dict.fromkeys((metric, "validation/loss", "train/loss")):
        if chart := curves(runs, shown, name):
            yield Figure(name.replace("/", "_"), name, text, chart)
    if chart := curves(runs, shown, "train/learning_rate"):
        yield Figure("learning_rate", "Learning rate", text, chart)
