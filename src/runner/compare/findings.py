"""A comparison as a value, which shows itself in a notebook."""

import base64
import html
import io
from typing import NamedTuple

import altair as alt

from runner.compare import figures
from runner.compare.analysis import Analysis
from runner.compare.load import Runs
from runner.compare.report import png
from runner.compare.text import show
from runner.record.console import console


class Findings(NamedTuple):
    """What was found about some runs.

    `str` is what `python -m runner.compare` prints of it.

    Attributes:
      runs: those that were read.
      analysis: all numbers.
    """

    runs: Runs
    analysis: Analysis

    @property
    def figures(self) -> dict[str, alt.LayerChart]:
        """The charts of the report by name, such as "final"."""
        return {f.name: f.chart for f in figures.figures(self.runs, self.analysis)}

    def __str__(self) -> str:
        text = io.StringIO()
        show(self.runs, self.analysis, console(text, plain=True), False)
        return text.getvalue()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The text and the first figure."""
        first = next(figures.figures(self.runs, self.analysis), None)
        image = ""
        if first is not None:
            data = base64.b64encode(png(first)).decode()
            image = f'<img width="720" src="data:image/png;base64,{data}">'
        return f"<pre>{html.escape(str(self))}</pre>{image}"
