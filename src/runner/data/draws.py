"""Examples drawn with replacement, instead of one epoch after another."""

import dataclasses

import numpy as np

from runner.data.order import Order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws(Order):
    """The rows of every step, drawn uniformly: a pure function of seed and step.

    This is how nanoGPT draws windows of a text, each of which overlaps thousands of
    others: https://github.com/karpathy/nanoGPT/blob/3adf61e/train.py (`get_batch`).
    An epoch is the number of steps that uses `drawn` examples, but at least one.
    Without `reshuffle` every epoch has the rows of the first.
    """

    drawn: int

    @property
    def steps_per_epoch(self) -> int:
        steps = max(1, self.drawn // self.batch_size)
        return steps if self.limit_batches is None else min(steps, self.limit_batches)

    def indices_at(self, step: int) -> np.ndarray:
        """The rows of 0-based `step`: int32, or int64 if necessary, `[batch_size]`."""
        if self.limit_batches is not None or not self.reshuffle:
            step %= self.steps_per_epoch
        dtype = np.int32 if self.num_examples <= 2**31 else np.int64
        generator = np.random.default_rng([self.seed, step])
        return generator.integers(self.num_examples, size=self.batch_size, dtype=dtype)

    def indices(self, start: int, count: int) -> np.ndarray:
        """The rows of the steps `start ... start + count - 1`, one step a row."""
        return np.stack([self.indices_at(start + i) for i in range(count)])
