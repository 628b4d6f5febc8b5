"""The figures of a comparison, in the Vega-Lite grammar."""

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
    """A figure of the page.

    Attributes:
      name: of its file, such as "final" of final.png.
      title: what it shows.
      caption: how to read it, in a sentence or two.
      chart: as wide as its container.
    """

    name: str
    title: str
    caption: str
    chart: alt.LayerChart


def figures(runs: Runs, analysis: Analysis) -> list[Figure]:
    """Every figure that has something to show for these runs, in reading order."""
    return [*_results(runs, analysis), *_courses(runs, analysis)]


def _results(runs: Runs, analysis: Analysis) -> Iterator[Figure]:
    metric = analysis.metric
    if chart := strip(runs, analysis):
        text = "A dot is a run; a bar, the mean over seeds with its 95 % interval."
        yield Figure("final", f"Final {metric}", text, chart)
    if chart := sensitivity(runs, analysis):
        text = (
            "Mean of the final value, with a line from lowest to highest seed. A ring "
            "marks the setting that a group is compared at."
        )
        yield Figure("sensitivity", "Sensitivity to tuning", text, chart)
    if chart := heat_map(runs, analysis):
        text = f"Mean final {metric} over all finished runs; darker is better."
        yield Figure("heat_map", "Two factors", text, chart)
    if chart := profile(runs, analysis):
        text = (
            "On how many problems a group came within a factor of the best one; a "
            "problem is a seed and a combination of all else. At 1: how often it was "
            "the best. Higher is better."
        )
        yield Figure("profile", "Performance profile", text, chart)


def _courses(runs: Runs, analysis: Analysis) -> Iterator[Figure]:
    text = "Mean over seeds; the band spans the lowest to the highest."
    cells = len(chart_parts.shown(runs, analysis).cells)
    if cells > chart_parts.MAX_CELLS:
        text = "Mean over all runs of a group; the band spans lowest to highest."
    elif cells > 1:
        keys = ", ".join(chart_parts.crossed(runs, analysis))
        text += f" One line for each group and each value of {keys}."
    for metric in dict.fromkeys((analysis.metric, "eval/loss", "train/loss")):
        if chart := curves(runs, analysis, metric):
            yield Figure(metric.replace("/", "_"), metric, text, chart)
    if chart := curves(runs, analysis, "train/learning_rate"):
        yield Figure("learning_rate", "Learning rate in force", text, chart)
