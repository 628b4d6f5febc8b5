"""The line that a sweep shows while it runs."""

import time
from collections.abc import Iterable
from typing import Any, TextIO

from runner.record.console import LiveLine, time_left

# Before so much is trained, of one job, a pace is a guess: 49 hours of 25 seconds.
_LEAST_OF_A_JOB = 0.01


class Status(LiveLine):
    """How many jobs are done, have failed and are running, and the time left.

    A context manager.

    Args:
      total: how many jobs there are.
      done: how many of them were done before.
    """

    def __init__(self, total: int, done: int, stream: TextIO | None = None):
        super().__init__(stream)
        self.total = total
        self.skipped = self.done = done
        self.failed = self.running = 0
        self.phase = "preparing"
        self.progress: dict[int, float] = {}  # of each job that trained, from 0 to 1
        self._trained = 0.0  # their sum
        self._started = time.monotonic()
        self._training: tuple[float, float] | None = None  # since when, from what
        self._said = ""

    def __enter__(self) -> "Status":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._live:
            self.say(self.line())
        self.close()

    def advance(self, number: int, fraction: float) -> None:
        """Job `number` has trained for this fraction of its steps."""
        self.reached(number, fraction)
        if self._training is None:  # what comes before is the start-up
            self._training = time.monotonic(), self._fraction()
        self.changed()

    def reached(self, number: int, fraction: float) -> None:
        """Note how much of job `number` is done."""
        self._trained += fraction - self.progress.get(number, 0.0)
        self.progress[number] = fraction

    def changed(self) -> None:
        """Print a plain line if it says something new and it is time for one."""
        line = self.line()
        if line != self._said and self._is_due():
            self._said = line
            self.say(line)

    def line(self) -> str:
        """Such as `sweep 60/100 done, 1 failed, 20 running, 0:00:12 left`."""
        parts = [f"sweep {self.done}/{self.total} done"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.running:
            parts.append(f"{self.running} running")
        if self.done + self.failed >= self.total:
            parts.append(f"{time.monotonic() - self._started:.1f} s")
        elif not self._trained:
            parts.append(self.phase)
        elif left := self._time_left():
            parts.append(left)
        return ", ".join(parts)

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        yield self.line()

    def _fraction(self) -> float:
        """How much of the training is done that was left to do, from 0 to 1."""
        return self._trained / max(self.total - self.skipped, 1)

    def _time_left(self) -> str:
        if self._training is None:  # a job has failed before any has trained
            return ""
        now, before = self._training
        done = self._fraction()
        if (done - before) * (self.total - self.skipped) < _LEAST_OF_A_JOB:
            return ""
        spent = time.monotonic() - now
        return time_left(spent * (1 - done) / (done - before))
