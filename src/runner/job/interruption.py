"""Being told to stop: by a scheduler that wants its machine back, or by Ctrl-C."""

import os
import signal
import threading
from types import TracebackType
from typing import Any, Self

from runner.errors import Preempted
from runner.job.processes import Processes

# What Slurm and its like send before a time limit or a preemption; submitit has USR2.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interruption:
    """Notes signals instead of dying of them. A context manager, around training only.

    In a thread that isn't the main one, where Python doesn't let handlers be set, it
    notes none. Of several processes JAX notes each one's SIGTERM, for all of them.
    """

    def __init__(self, processes: Processes | None = None):
        self._processes = processes or Processes()
        self._asked = 0  # by calls of `stopping`
        self._before: dict[int, Any] = {}
        self._received: int | None = None

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and not self._processes.has_peers:
            self._before = {s: signal.signal(s, self._note) for s in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: it was set by something else than Python, and can't be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stopping(self) -> Preempted | None:
        """What to raise if training has to stop now, at the end of a call.

        Several processes agree on it.
        """
        if self._processes.has_peers:
            from jax.experimental import multihost_utils

            self._asked += 1  # what they agree on is a number of these
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self._received = signal.SIGTERM
        if self._received is None:
            return None
        return Preempted(self._received, self._before.get(self._received))

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self._received is not None:
            raise KeyboardInterrupt
        if self._received is None:
            self._received = number
            told = f"{signal.Signals(number).name}: ending after this step"
            if number == signal.SIGINT:
                told += "; Ctrl-C again ends at once"
            # `print` may be what this has interrupted, and can't be entered twice.
            os.write(2, f"\n{told}\n".encode())
