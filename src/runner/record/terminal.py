"""What a person sees of a run: a progress line, and a summary at its end."""

import math
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from runner.errors import few
from runner.record.console import LiveLine, console, print_table, time_left
from runner.settings import PROBE

_BAR_WIDTH = 20
_PACE_SECONDS = 30.0  # steps/s and the time left follow from about the last of these
_SPEED = "time/steps_per_second"
_SHOWN = ("train/loss", "train/learning_rate")


class Progress(LiveLine):
    """The newest row of a run that takes `total_steps`.

    Elsewhere than on a terminal the first row and the last one get a line in any case.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None):
        super().__init__(stream)
        self._total = total_steps
        self._row: dict[str, Any] = {"step": 0}
        self._evaluated = 0  # the step of the validation/ numbers in it
        self._said = 0  # the step of the last plain line
        self._paces: deque[tuple[float, int]] = deque()
        self.start()

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row. On a terminal this only stores it."""
        step = row["step"]
        self._note_pace(step)
        # A new dict, since the thread may be reading the old one. Evaluations come in
        # fewer rows than losses, so a key that `row` lacks keeps its value.
        self._row = {**self._row, **row}
        if _evaluations(row):
            self._evaluated = step
        if self._is_due() or (step >= self._total and not self._live):
            self._say_row()

    def close(self) -> None:
        """Say the last row, if it has not been said; leave it on a terminal."""
        if not self._live and self._said < self._row["step"]:
            self._say_row()
        self._said = self._row["step"]
        super().close()

    def _note_pace(self, step: int) -> None:
        now = time.monotonic()
        if not self._paces or now - self._paces[-1][0] >= 1:
            self._paces.append((now, step))
        while len(self._paces) > 2 and self._paces[1][0] < now - _PACE_SECONDS:
            self._paces.popleft()

    def _speed(self) -> float | None:
        """Steps per second, without the start-up that is before the first row."""
        if len(self._paces) > 1:
            (then, first), (now, last) = self._paces[0], self._paces[-1]
            return (last - first) / (now - then)
        return self._row.get(_SPEED)

    def _say_row(self) -> None:
        row, since = self._row, self._said
        self._said = row["step"]
        parts = [f"step {row['step']}/{self._total}"]
        parts += [_text(key, row[key]) for key in _SHOWN if key in row]
        parts += filter(None, self._pace())
        if self._evaluated > since:
            parts += [_text(key, row[key]) for key in _evaluations(row)]
            if self._evaluated < row["step"]:
                parts[-1] += f" (at step {self._evaluated})"
        self.say("  ".join(parts))

    def _pace(self) -> tuple[str, str]:
        """The speed and the time left, as texts; the latter may be empty."""
        speed, left = self._speed(), self._total - self._row["step"]
        if not speed:
            return "", "starting" if left else ""
        return f"{number(_SPEED, speed)} steps/s", time_left(left / speed)

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = self._row
        parts: list[Any] = [
            f"step {row['step']}/{self._total}",
            f"{row['step'] / max(self._total, 1):.0%}",
        ]
        speed, left = self._pace()
        numbers = [_text(key, row[key]) for key in _SHOWN if key in row]
        evaluations = [_text(key, row[key]) for key in _evaluations(row)]
        room = options.max_width - sum(len(part) + 2 for part in [*parts, left])
        for text in [*numbers, speed, *evaluations]:
            text = text.removeprefix("train/").replace("learning_rate", "lr")
            # The bar matters more than evaluations: they get room if it has some too.
            spare = _BAR_WIDTH + 2 if text in evaluations else 0
            if text and room >= len(text) + 2 + spare:
                room -= len(text) + 2
                parts.append(text)
        if room > _BAR_WIDTH // 2:
            width = min(room - 2, _BAR_WIDTH)
            bar = ProgressBar(total=self._total, completed=row["step"], width=width)
            parts.insert(1, bar)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(*parts, left)
        yield line


def _evaluations(row: Mapping[str, Any]) -> list[str]:
    """Of what was evaluated, each metric that is one number."""
    return [key for key in row if re.fullmatch(r"validation/[^/]+", key)]


def _text(key: str, value: Any) -> str:
    name = "learning_rate" if key == "train/learning_rate" else key
    return f"{name} {number(key, value)}"


def number(key: str, value: Any) -> str:
    """`value` of the metric `key`, as a person reads it."""
    return short(value, 3 if key == _SPEED else 4)


def short(value: Any, digits: int = 4) -> str:
    """A float with so many significant digits, in the shorter of both notations."""
    if not isinstance(value, float) or not value or not math.isfinite(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    plain = f"{value:.{max(0, digits - 1 - int(exponent))}f}"
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return min(plain, f"{mantissa}e{int(exponent)}", key=len)


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
    metrics = []
    for key, value in summary.get("final", {}).items():
        if isinstance(value, int | float) and not key.startswith(PROBE):
            top = best.get(key)
            at_best = (number(key, top["value"]), str(top["step"])) if top else ("", "")
            metrics.append((key, number(key, value), *at_best))
    header = ("metric", "final", "best", "at step")
    print_table(header, metrics, out, right=slice(1, None))
    if metrics:
        out.print()
    facts = {"status": f"{summary['status']}, {summary['steps']} steps"}
    if "stopped" in summary:
        facts["status"] += f": {summary['stopped']}"
    if "unchanged" in summary:
        names = few(summary["unchanged"])
        facts["unchanged"] = f"{names}: no step that was looked at moved them"
    for key in ("wall_seconds", "compile_seconds"):
        if summary.get(key) is not None:
            facts[key.replace("_seconds", " time")] = f"{summary[key]:.1f} s"
    for key, value in (facts | dict(places)).items():
        # Not in the table: a path that is folded can't be copied.
        out.print(Text(f"{key:<14}", "bold") + Text(value), soft_wrap=True)
