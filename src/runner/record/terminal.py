"""What a person sees of a run: a progress line, and a table at its end. On stderr."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

_PLAIN_LINES = 20  # over a whole run, besides evaluations: enough for a job's log
_REFRESHES_PER_SECOND = 10
_BAR_WIDTH = 20


class Progress:
    """Shows the newest row of a run that takes `total_steps`.

    A terminal gets one line that is redrawn at most ten times a second. Anything else
    gets a plain line for every twentieth of the run, for every evaluation and for the
    last step.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._total = total_steps
        self._row: dict[str, Any] = {"step": 0}
        self._next_line = 0.0
        self._live = None
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                self,  # see __rich_console__
                console=Console(file=self._stream),
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._live.start()

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row. On a terminal this only stores it: a thread of rich's draws."""
        if self._live:
            # A new dict, since the thread may be reading the old one. Evaluations come
            # in fewer rows than losses, so what a row lacks stays.
            self._row = {**self._row, **row}
            return
        step = row["step"]
        last = step >= self._total
        if step >= self._next_line or last or any(k.startswith("eval/") for k in row):
            self._next_line = step - step % self._interval + self._interval
            print(_plain_line(row, self._total), file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the last line standing."""
        if self._live:
            self._live.stop()
            self._live = None

    @property
    def _interval(self) -> float:
        return max(self._total / _PLAIN_LINES, 1)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        row = self._row
        parts: list[Any] = [
            f"step {row['step']}/{self._total}",
            f"{row['step'] / max(self._total, 1):.0%}",
        ]
        left = self._time_left(row)
        room = options.max_width - sum(len(part) + 2 for part in [*parts, left])
        for key in [key for key in _ON_TERMINAL if key in row]:
            number = _shown(key, row[key]).removeprefix("train/")
            # A narrow terminal gets the first ones only; the bar goes before eval/.
            spare = _BAR_WIDTH + 2 if key.startswith("eval/") else 0
            if room >= len(number) + 2 + spare:
                room -= len(number) + 2
                parts.append(number)
        if room > _BAR_WIDTH // 2:
            width = min(room - 2, _BAR_WIDTH)
            bar = ProgressBar(total=self._total, completed=row["step"], width=width)
            parts.insert(1, bar)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(*parts, left)
        yield line

    def _time_left(self, row: Mapping[str, Any]) -> str:
        speed = row.get("time/steps_per_second")
        if not speed:
            return "starting"
        seconds = int((self._total - row["step"]) / speed)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


_ON_A_LINE = (
    "train/loss",
    "eval/loss",
    "eval/accuracy",
    "train/learning_rate",
    "time/steps_per_second",
)
_ON_TERMINAL = (  # the order in which a narrow one gives up, from the last
    "train/loss",
    "train/learning_rate",
    "time/steps_per_second",
    "eval/accuracy",
    "eval/loss",
)


def _shown(key: str, value: Any) -> str:
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
    numbers = [_shown(key, row[key]) for key in _ON_A_LINE if key in row]
    return "  ".join([f"step {row['step']}/{total}", *numbers])


def summary_table(
    summary: Mapping[str, Any], places: Mapping[str, str], stream: TextIO | None = None
) -> None:
    """Print how a run ended and where everything is.

    Args:
      summary: what summary.json holds; "final" and "best" become rows.
      places: what is where, such as {"run folder": "outputs/1"}.
      stream: stderr by default. Not a terminal: plain lines without a frame.
    """
    out: TextIO = stream or sys.stderr
    final, best = summary.get("final", {}), summary.get("best", {})
    metrics = [
        (
            key,
            number(key, value),
            number(key, best[key]["value"]) if key in best else "",
            str(best[key]["step"]) if key in best else "",
        )
        for key, value in final.items()
        if isinstance(value, int | float)
    ]
    facts = [("status", f"{summary['status']}, {summary['steps']} steps")]
    for key in ("wall_seconds", "compile_seconds"):
        if summary.get(key) is not None:
            facts.append((key.replace("_seconds", " time"), f"{summary[key]:.1f} s"))
    facts += places.items()
    if out.isatty():
        _rich_table(metrics, facts, out)
        return
    for key, last, top, step in metrics:
        note = f"  (best {top} at step {step})" if top else ""
        print(f"{key:<24}{last}{note}", file=out)
    for key, value in facts:
        print(f"{key:<24}{value}", file=out)


def _rich_table(
    metrics: list[tuple[str, str, str, str]],
    facts: list[tuple[str, str]],
    stream: TextIO,
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    table = Table("metric", *("final", "best", "at step"))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in metrics:
        table.add_row(*row)
    if metrics:
        console.print(table)
    for key, value in facts:
        # Not in the table: a path that is folded can't be copied. As Text, since a
        # folder named [x] isn't markup.
        console.print(Text(f"{key:<14}", "bold") + Text(value), soft_wrap=True)
