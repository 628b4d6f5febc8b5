"""How long the calls of the compiled program may be."""

import time
from collections import deque

import jax

from runner.core.rows import Call

# A call is made longer until it takes this many seconds, so that the loop of a small
# model is rarely interrupted and that of a large one still shows progress.
CALL_SECONDS = 0.2
RATE_SECONDS = 1.0  # that time/steps_per_second is averaged over


class Pace:
    """How fast calls come back, and so how many steps the next one may take.

    Attributes:
      steps_a_call: how many that is.
    """

    def __init__(self, start: int):
        self._reads = deque([(time.perf_counter(), start)])  # when so many were done
        self.steps_a_call = 16

    def measure(self, call: Call) -> float:
        """Wait for `call`; steps per second over the last second or so."""
        jax.block_until_ready(call.rows)
        now = time.perf_counter()
        seconds, count = now - self._reads[-1][0], call.stop - call.start
        if count == self.steps_a_call and seconds < CALL_SECONDS / 2:
            self.steps_a_call *= 2
        elif seconds > CALL_SECONDS * 2:
            self.steps_a_call = max(1, count // 2)
        self._reads.append((now, call.stop))
        while len(self._reads) > 2 and self._reads[1][0] < now - RATE_SECONDS:
            self._reads.popleft()
        then, done = self._reads[0]
        return (call.stop - done) / (now - then)
