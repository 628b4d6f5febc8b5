"""When a run logs and evaluates, and how its steps are cut into calls."""

import math
from typing import Any, NamedTuple

import numpy as np

# In a shorter run, every step may be logged: a call of several steps is then all that
# it needs, and compiling another for single ones takes longer than more norms.
SHORT = 5000
# A shorter block takes longer as a loop of its own than the norms of its steps do.
_WORTH_A_LOOP = 4
# A shorter block saves less as a call than it takes to compile.
_WORTH_A_CALL = 8


class Timetable(NamedTuple):
    """The length of a run and its intervals, all in optimizer steps.

    Runs that have it in common can train side by side. It decides where calls end, and
    that may decide how XLA rounds: so it is the same in a replay, and when resumed.

    Attributes:
      save_every: the interval of checkpoints, if they have one in steps.
    """

    steps: int
    eval_every: int
    log_every: int
    save_every: int | None = None

    @property
    def logged(self) -> np.ndarray:
        """The steps that get a row in metrics.jsonl: bool [steps]."""
        return self.is_logged(np.arange(1, self.steps + 1))

    def is_logged(self, step: Any) -> Any:
        """Whether a step, or each of an array, gets a row."""
        logged = (step == 1) | (step == self.steps) | (step % self.log_every == 0)
        return logged | (step % self.eval_every == 0)

    def next_evaluation(self, step: int) -> int:
        """The first step after `step` that is followed by an evaluation."""
        return min(self.steps, (step // self.eval_every + 1) * self.eval_every)

    def next_stop(self, step: int) -> int:
        """The first step after `step` at which a call ends in any case."""
        evaluated = self.next_evaluation(step)
        if self.save_every is None:
            return evaluated
        return min(evaluated, (step // self.save_every + 1) * self.save_every)

    def cut(self, most: int) -> "Cut":
        """The calls of at most `most` steps that cover an evaluation interval best.

        A call of one block takes its steps twice (see `core.step`), so that blocks are
        short enough for calls of several.
        """
        interval = min(self.steps, self.eval_every, self.save_every or self.steps)
        most = min(most, interval)
        every = self.eval_every, self.log_every, self.save_every
        within = [n for n in every if n is not None and n <= self.steps]
        common = math.gcd(*within) or self.steps
        block = 1 if self.steps < SHORT else _divisor(common, max(1, most // 2))
        blocks = _blocks(interval // block, most // block)
        while block > 1 and (block < _WORTH_A_LOOP or interval // block % blocks == 1):
            block = _divisor(block, block - 1)
            blocks = _blocks(interval // block, most // block)
        lengths = {
            blocks,
            interval // block % blocks,
            self.steps % interval // block % blocks,
        }
        if self.steps >= SHORT and self._crosses():
            # Of what is left before a stop, the lengths differ.
            lengths |= {n for n in (blocks // 4, blocks // 16, 2) if 1 < n < blocks}
        if block >= _WORTH_A_CALL:
            lengths.add(1)
        lengths = sorted((n for n in lengths if n * block > 1), reverse=True)
        return Cut(block, tuple(lengths))

    def _crosses(self) -> bool:
        """Whether checkpoints and evaluations have intervals without common ends."""
        if self.save_every is None:
            return False
        both = self.save_every, self.eval_every
        return max(both) <= self.steps and max(both) % min(both) != 0


class Cut(NamedTuple):
    """The lengths of a run's calls, each of which is a compiled program of its own.

    A call of several steps is a number of blocks. Each of them ends with a step that
    is logged or may be; the others are not. Steps that no block fits, such as those
    before a checkpoint at an odd step, are a call each.

    Attributes:
      block: the steps of a block.
      lengths: the numbers of blocks of the calls, the largest first.
    """

    block: int
    lengths: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """The blocks of the longest call; 0 if each step is a call."""
        return max(self.lengths, default=0)

    @property
    def steps(self) -> int:
        """The steps of the longest call."""
        return max(1, self.block * self.blocks)

    def after(self, step: int, stop: int) -> int:
        """The blocks of the call after `step`, which may go on to `stop`.

        0 is a single step. The result depends on nothing else, so a resumed run makes
        the same calls as one that was never interrupted.
        """
        if step % self.block:
            return 0
        fitting = (n for n in self.lengths if step + n * self.block <= stop)
        return next(fitting, 0)


def _blocks(whole: int, fits: int) -> int:
    """The blocks of a call, at most `fits`, where `whole` are to be taken."""
    blocks = _divisor(whole, fits)
    return fits if 2 * blocks < fits or blocks == 1 else blocks


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)
