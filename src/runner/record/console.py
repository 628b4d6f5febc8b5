"""How every command prints tables and progress, to a terminal or to a file."""

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from runner.record.untrusted import one_line

if TYPE_CHECKING:  # elsewhere in functions: recording should not have to load rich
    from rich.console import Console

# Between two plain lines: at least this, in seconds, and this share of all time so far.
_QUIET_SECONDS = 3.0
_QUIET_SHARE = 0.1
_REFRESHES_PER_SECOND = 10


def console(stream: TextIO | None = None, *, plain: bool = False) -> "Console":
    """A rich console that prints text as it is, and folds it on a terminal only.

    Args:
      stream: stdout by default.
      plain: no colours, even where the environment asks for them, as in a notebook.
    """
    from rich.console import Console

    found = Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=False if plain else None,
        force_jupyter=False,  # else a notebook shows what is written to `stream`
    )
    if not found.is_terminal:
        found.width = 10_000
    return found


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    out: "Console",
    *,
    title: str = "",
    right: slice = slice(0),
    most: int | None = None,
) -> None:
    """Print `rows` in columns, or nothing if there are none.

    Args:
      rows: an empty one leaves a gap.
      title: printed above, after an empty line.
      right: the columns to align to the right.
      most: how many rows to print; the others are counted.
    """
    from rich.table import Table

    if not rows:
        return
    if title:
        out.print(f"\n{title}", style="italic")
    table = Table(*header, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for column in table.columns[right]:
        column.justify = "right"
    for row in rows[:most]:
        table.add_row(*map(one_line, row))
    out.print(table)
    if most is not None and len(rows) > most:
        out.print(f"... and {len(rows) - most} more")


def time_left(seconds: float) -> str:
    """Such as "0:00:12 left"; nothing for less than a second, which is soon over."""
    whole = int(seconds)
    if whole < 1:
        return ""
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} left"


class LiveLine:
    """One line that is redrawn in its place on a terminal; elsewhere plain lines.

    These come at most every three seconds and ever more rarely: some thirty in three
    minutes, a hundred in a day.

    Args:
      stream: stderr by default.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream or sys.stderr
        self._began = time.monotonic()
        self._next = -math.inf
        self._live: Any = None

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        """The line as it is now. A thread of rich calls this."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to draw, if this is a terminal, and one that can redraw a line."""
        is_dumb = os.environ.get("TERM") in ("dumb", "unknown")
        if self._stream.isatty() and not is_dumb:
            from rich.live import Live

            self._live = Live(
                self,
                console=console(self._stream),
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._live.start()

    def close(self) -> None:
        """Draw the line a last time and leave it there."""
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Print `text`, on a terminal above the line."""
        if self._live:
            self._live.console.print(text)
        else:
            print(text, file=self._stream, flush=True)

    def _is_due(self) -> bool:
        """Whether it is time for a plain line."""
        now = time.monotonic()
        if self._live or now < self._next:
            return False
        self._next = now + max(_QUIET_SECONDS, _QUIET_SHARE * (now - self._began))
        return True
