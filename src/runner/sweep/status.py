"""The one line that a sweep shows while it runs. On stderr."""

import sys
import time
from typing import Any, TextIO

_PLAIN_LINES = 20
_QUIET_SECONDS = 2.0  # a plain line comes no sooner after the one before


class Status:
    """How far a sweep is: jobs prepared, running, done and failed, and the time left.

    A terminal gets one line that is redrawn, anything else some twenty plain lines. A
    context manager.

    Args:
      total: how many jobs there are.
      done: how many of them an earlier process has done.
    """

    def __init__(self, total: int, done: int, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self.total = total
        self.skipped = self.done = done
        self.failed = self.running = 0
        self.phase = "preparing"
        self.progress: dict[int, float] = {}  # of each job that trained, from 0 to 1
        self._started = time.monotonic()
        self._training: float | None = None
        self._told = (0.0, -1.0)  # when the last plain line was, and how far it was
        self._live: Any = None

    def __enter__(self) -> "Status":
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(self, console=console, refresh_per_second=10)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        else:
            print(self.line(), file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """Print `text` above the line."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def advance(self, number: int, fraction: float) -> None:
        """Job `number` has trained for this fraction of its steps."""
        if self._training is None:
            self._training = time.monotonic()
        self.progress[number] = fraction
        self.changed()

    def changed(self) -> None:
        """Print a plain line if enough has happened since the last."""
        when, how_far = self._told
        now, at = time.monotonic(), self._fraction()
        if self._live or now - when < _QUIET_SECONDS:
            return
        if at - how_far >= 1 / _PLAIN_LINES or self.phase == "preparing":
            self._told = now, at
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """Such as `sweep 60/100 done, 1 failed, 20 running, 0:00:12 left`."""
        parts = [f"sweep {self.done}/{self.total} done"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.running:
            parts.append(f"{self.running} running")
        over = self.done + self.failed >= self.total
        if over:
            parts.append(f"{time.monotonic() - self._started:.1f} s")
        else:
            parts.append(self._time_left() or self.phase)
        return ", ".join(parts)

    def __rich__(self) -> str:
        return self.line()

    def _fraction(self) -> float:
        """How much of all training that this process has to do is done."""
        return sum(self.progress.values()) / max(self.total - self.skipped, 1)

    def _time_left(self) -> str:
        if self._training is None or not self._fraction():
            return ""
        spent = time.monotonic() - self._training
        seconds = int(spent * (1 / self._fraction() - 1))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
