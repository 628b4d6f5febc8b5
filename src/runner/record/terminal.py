"""What a person sees of a run: a progress line, and a summary at its end."""

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from runner.record.console import LiveLine, console, print_table, time_left
from runner.settings import PROBE

_BAR_WIDTH = 20


class Progress(LiveLine):
    """The newest row of a run that takes `total_steps`.

    Besides every twentieth, each evaluation and the last step get a plain line.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None):
        super().__init__(stream)
        self._total = total_steps
        self._row: dict[str, Any] = {"step": 0}
        self.start()

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row. On a terminal this only stores it."""
        # A new dict, since the thread may be reading the old one. Evaluations come in
        # fewer rows than losses, so a key that `row` lacks keeps its value.
        self._row = {**self._row, **row}
        step = row["step"]
        always = step >= self._total or any(key.startswith("validation") for key in row)
        if self._is_due(step / max(self._total, 1), always):
            self.say(_plain_line(row, self._total))

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = self._row
        parts: list[Any] = [
            f"step {row['step']}/{self._total}",
            f"{row['step'] / max(self._total, 1):.0%}",
        ]
        left = self._time_left(row)
        room = options.max_width - sum(len(part) + 2 for part in [*parts, left])
        for key in _shown(row):
            text = _text(key, row[key]).removeprefix("train/")
            # The bar matters more than evaluations: they get room if it has some too.
            spare = _BAR_WIDTH + 2 if key.startswith("validation") else 0
            if room >= len(text) + 2 + spare:
                room -= len(text) + 2
                parts.append(text)
        if room > _BAR_WIDTH // 2:
            width = min(room - 2, _BAR_WIDTH)
            bar = ProgressBar(total=self._total, completed=row["step"], width=width)
            parts.insert(1, bar)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(*parts, left)
        yield line

    def _time_left(self, row: Mapping[str, Any]) -> str:
        speed = row.get("time/steps_per_second")
        return time_left((self._total - row["step"]) / speed) if speed else "starting"


_SHOWN = (  # on a line; a narrow terminal gets only the first few
    "train/loss",
    "train/learning_rate",
    "time/steps_per_second",
)


def _shown(row: Mapping[str, Any]) -> list[str]:
    """The keys on a line: of what was evaluated, each metric that is one number."""
    evaluated = [key for key in row if re.fullmatch(r"validation/[^/]+", key)]
    return [*(key for key in _SHOWN if key in row), *evaluated]


def _text(key: str, value: Any) -> str:
    if key == "time/steps_per_second":
        return f"{number(key, value)} steps/s"
    name = "learning_rate" if key == "train/learning_rate" else key
    return f"{name} {number(key, value)}"


def number(key: str, value: Any) -> str:
    """`value` of the metric `key`, as a person reads it."""
    if key == "time/steps_per_second":
        return f"{value:.0f}"
    if key == "train/learning_rate":
        return f"{value:.2e}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain_line(row: Mapping[str, Any], total: int) -> str:
    numbers = [_text(key, row[key]) for key in _shown(row)]
    return "  ".join([f"step {row['step']}/{total}", *numbers])


def print_summary(
    summary: Mapping[str, Any], places: Mapping[str, str], stream: TextIO | None = None
) -> None:
    """Print how a run ended and where everything is.

    Args:
      summary: the content of summary.json; "final" and "best" become a table.
      places: the path of each thing, such as {"run folder": "outputs/1"}.
      stream: stderr by default.
    """
    from rich.text import Text

    out = console(stream or sys.stderr)
    best = summary.get("best", {})
    metrics = [
        (
            key,
            number(key, value),
            number(key, best[key]["value"]) if key in best else "",
            str(best[key]["step"]) if key in best else "",
        )
        for key, value in summary.get("final", {}).items()
        if isinstance(value, int | float) and not key.startswith(PROBE)
    ]
    header = ("metric", "final", "best", "at step")
    print_table(header, metrics, out, right=slice(1, None))
    if metrics:
        out.print()
    facts = {"status": f"{summary['status']}, {summary['steps']} steps"}
    if "stopped" in summary:
        facts["status"] += f": {summary['stopped']}"
    for key in ("wall_seconds", "compile_seconds"):
        if summary.get(key) is not None:
            facts[key.replace("_seconds", " time")] = f"{summary[key]:.1f} s"
    for key, value in (facts | dict(places)).items():
        # Not in the table: a path that is folded can't be copied.
        out.print(Text(f"{key:<14}", "bold") + Text(value), soft_wrap=True)
