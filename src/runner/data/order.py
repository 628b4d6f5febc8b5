"""Which examples each training step uses: one rule for every way of feeding them."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
    """The rows of every step, a pure function of the seed and the step.

    An epoch is a permutation of the examples cut into whole batches. The tail that
    doesn't fill a batch is dropped, a different tail each epoch. So the step number is
    all that a checkpoint has to keep of the data.

    Without `reshuffle` all epochs are epoch 0: one order, and one tail that no step
    ever sees.

    `limit_batches` (at least 1) restricts training to that many first batches of epoch
    0, in turn; 1 trains on a single batch forever. None means all batches.
    `batch_size`, the examples of one step over all devices, is at most `num_examples`.
    """

    num_examples: int
    batch_size: int
    seed: int
    limit_batches: int | None
    reshuffle: bool = True
    # Of the last two epochs: steps are requested in order.
    _permutations: dict[int, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def steps_per_epoch(self) -> int:
        whole_batches = self.num_examples // self.batch_size
        if self.limit_batches is None:
            return whole_batches
        return min(whole_batches, self.limit_batches)

    def indices_at(self, step: int) -> np.ndarray:
        """The rows of 0-based `step`: int32 `[batch_size]`, read-only."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = batch * self.batch_size
        return self._permutation(epoch)[start : start + self.batch_size]

    def indices(self, start: int, count: int) -> np.ndarray:
        """The rows of the steps `start ... start + count - 1`.

        Returns:
            int32 `[count, batch_size]`; row `i` is `indices_at(start + i)`.
        """
        rows = np.empty((count, self.batch_size), np.int32)
        done = 0
        while done < count:
            epoch, batch = divmod(start + done, self.steps_per_epoch)
            size = min(count - done, self.steps_per_epoch - batch)
            first = batch * self.batch_size
            chunk = self._permutation(epoch)[first : first + size * self.batch_size]
            rows[done : done + size] = chunk.reshape(size, self.batch_size)
            done += size
        return rows

    def _permutation(self, epoch: int) -> np.ndarray:
        if self.limit_batches is not None or not self.reshuffle:
            epoch = 0
        rows = self._permutations.get(epoch)
        if rows is None:
            generator = np.random.default_rng([self.seed, epoch])
            rows = generator.permutation(self.num_examples).astype(np.int32)
            rows.flags.writeable = False  # every caller gets a view of this one array
            for old in list(self._permutations)[:-1]:
                self._permutations.pop(old, None)  # another thread may have
            self._permutations[epoch] = rows
        return rows
