"""The call after which all processes of a run stop, for a signal to any of them."""

import contextlib
import signal
import threading
from typing import Any

from runner import signals
from runner.config.rank import Rank
from runner.errors import Preempted

ASKED = "runner/stop"
PATIENCE_MS = 24 * 3600 * 1000


class CommonStop:
    """Finds a call that no process has begun yet, once one of them has been asked.

    Each process says how many calls it has begun, and begins no other before it knows
    how many the others have. They stop after the next one that is new to all. A process
    that hasn't begun any, and may compile for minutes, ends at once, and the others
    with it.

    Args:
      client: of JAX's coordinator.
      rank: of this process.
    """

    def __init__(self, client: Any, rank: Rank):
        self._client = client
        self._rank = rank
        self._calls = 0
        self._last: int | None = None
        self._number: int | None = None
        self._lock = threading.Lock()  # held while the processes find the call
        self._thread = threading.Thread(
            target=self._find, name="runner-stop", daemon=True
        )
        self._thread.start()

    def ask(self, number: int) -> None:
        """Ask all processes to stop because of a signal."""
        if self._number is None:
            with contextlib.suppress(Exception):  # another was first
                self._client.key_value_set(ASKED, str(number))

    def reached(self, calls: int) -> int | None:
        """The signal's number if this is the call after which they stop."""
        with self._lock:
            self._calls = calls
            return self._number if calls == self._last else None

    def join(self, seconds: float) -> None:
        """Wait for the end of its thread, which JAX's shutdown brings."""
        self._thread.join(seconds)

    def _find(self) -> None:
        with contextlib.suppress(Exception):  # the run has ended
            number = int(self._client.blocking_key_value_get(ASKED, 10 * PATIENCE_MS))
            if not self._calls and signals.is_watching():
                signals.end(Preempted(number))
            with self._lock:
                key = f"{ASKED}/{{}}".format
                self._client.key_value_set(key(self._rank.process), str(self._calls))
                begun = [
                    int(self._client.blocking_key_value_get(key(i), PATIENCE_MS))
                    for i in range(self._rank.size)
                ]
                self._last, self._number = max(begun) + 1, signal.Signals(number)
