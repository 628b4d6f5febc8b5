"""Requests to stop: from a scheduler that wants its machine back, or by Ctrl-C."""

import signal
import threading
from types import TracebackType
from typing import Any, Self

from runner import signals
from runner.errors import Preempted
from runner.job.processes import Processes


class Interruption:
    """Records signals instead of dying from them. A context manager around training.

    Until `stopping` is asked first, nothing is lost if the process ends at once, which
    it does where `runner.signals` watches.

    Outside the main thread, where Python can't set handlers, it records none. With
    several processes, a signal to any of them stops all.
    """

    def __init__(self, processes: Processes | None = None):
        self._processes = processes or Processes()
        self._asked = 0  # how often `stopping` was called
        self._before: dict[int, Any] = {}
        self._received: int | None = None

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            self._before = {s: signal.signal(s, self._note) for s in signals.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signals.over(self, error)
        for number, handler in self._before.items():
            # None: it wasn't set from Python and can't be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stopping(self) -> Preempted | None:
        """The exception to raise if training must stop now, at the end of a call.

        Several processes agree on it.
        """
        self._asked += 1
        if self._asked == 1:
            signals.begun(self)
        number = self._processes.stopping(self._asked, self._received)
        return Preempted(number, self._before.get(number)) if number else None

    def _note(self, number: int, frame: Any) -> None:
        if signals.is_watching() and not self._asked:
            self._received = number  # in case that training begins just now
            return  # else it ends the process
        if number == signal.SIGINT and self._received is not None:
            raise KeyboardInterrupt
        if self._received is None:
            self._received = number
            message = f"{signal.Signals(number).name}: ending after this step"
            if number == signal.SIGINT:
                message += "; press Ctrl-C again to end at once"
            signals.say(f"\n{message}")
