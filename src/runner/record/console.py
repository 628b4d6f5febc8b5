"""How every command prints tables and progress, to a terminal or to a file."""

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TextIO

from runner.record.untrusted import one_line

if TYPE_CHECKING:  # elsewhere in functions: recording should not have to load rich
    from rich.console import Console
    from rich.table import Table

# Between two plain lines: at least this, in seconds, and this share of all time so far.
_QUIET_SECONDS = 3.0
_QUIET_SHARE = 0.1
_REFRESHES_PER_SECOND = 10
_WIDE = 10_000  # more columns than any table has


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
        found.width = _WIDE
    return found


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    out: "Console",
    *,
    title: str = "",
    right: slice = slice(0),
    most: int | None = None,
    named: bool = False,
) -> None:
    """Print `rows` in columns, or nothing if there are none.

    Where they are too wide for a terminal, names in the header are folded at their dots
    and slashes, and then whole columns between words and the parts of keys: rich would
    cut any word.

    Args:
      rows: an empty one leaves a gap.
      title: printed above, after an empty line.
      right: the columns to align to the right.
      most: how many rows to print; the others are counted.
      named: the first cell of a row is its name. If even that is too wide, each name
        has a line of its own.
    """
    if not rows:
        return
    if title:
        out.print(f"\n{title}", style="italic")
    cells = [[one_line(cell) for cell in row] for row in rows[:most]]
    table = _table(header, cells, right)
    if not _fits(table, out):
        header = [re.sub(r"([./])(?=.)", r"\1\n", name) for name in header]
        table = _table(header, cells, right)
    above = named and not _fits(table, out)
    rest = _table(["", *header[1:]], [["", *row[1:]] for row in cells], right)
    if above and _fits(rest, out):
        _print_named([row[0] for row in cells], rest, out)
    else:
        out.print(_narrowed(header, cells, right, out))
    if most is not None and len(rows) > most:
        out.print(f"... and {len(rows) - most} more")


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: slice
) -> "Table":
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for column in table.columns[right]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


# Where a text may be folded: not within a number, such as 0.1, or 95 %.
_FOLDS = re.compile(r" +(?!%|- )|(?<=[./])(?=[A-Za-z_])|(?==)")


def _narrowed(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: slice, out: "Console"
) -> "Table":
    """A table in which the widest columns are folded, one by one until it fits."""
    columns = [list(column) for column in zip_longest(header, *rows, fillvalue="")]
    whole = set(range(len(columns)))

    def width(column: int) -> int:
        return max(len(line) for cell in columns[column] for line in cell.split("\n"))

    while True:
        head, *lines = zip(*columns, strict=True)
        table = _table(head, lines, right)
        if not whole or _fits(table, out):
            return table
        widest = max(whole, key=width)
        whole.remove(widest)
        columns[widest] = [_FOLDS.sub("\n", cell) for cell in columns[widest]]


def _fits(table: "Table", out: "Console") -> bool:
    wide = out.options.update(max_width=_WIDE)
    return out.measure(table, options=wide).maximum <= out.width


def _print_named(names: Sequence[str], table: "Table", out: "Console") -> None:
    """Print a table that fits, with the name of each row above it."""
    from rich.segment import Segment, Segments
    from rich.text import Text

    rendered = out.render_lines(table, pad=False)
    lines = [Segments([*line, Segment.line()]) for line in rendered]
    head = len(lines) - len(names)
    for line in lines[:head]:
        out.print(line)
    for name, line in zip(names, lines[head:], strict=True):
        out.print(Text(name), soft_wrap=True)
        out.print(line)


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
