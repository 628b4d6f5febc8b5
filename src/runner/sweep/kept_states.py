"""The best and the last state of each member, which its own folder gets at its end."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.core.shapes import start_shapes
from runner.core.snapshot import Snapshot, Start
from runner.sweep.member import Member


class KeptStates:
    """What `checkpoint.best` and `checkpoint.last` keep of a population.

    The best states stay on the devices, as many arrays as the population's own, until
    their members end: a file for each improvement of each member would take longer
    than the training.

    Args:
      members: by its index, each member that trains.
      size: of the population, with the copies that fill it up.
      start: where it continues; None means the beginning.

    Attributes:
      best: the best state of each member so far, and the newest of a member whose
        objective has had no value yet. None before the first evaluation.
      records: what is saved beside the best state of a member, by its index.
    """

    def __init__(self, members: Mapping[int, Member], size: int, start: Start | None):
        self._members = dict(members)
        self._size = size
        first = next(iter(members.values()))
        self._settings = first.prepared.checkpoints.settings
        self._last: tuple[int, Snapshot] | None = None
        steps = len(first.run.learning_rates)
        if self._settings.last and start and start.step == steps:
            # It was killed once all was trained, so nothing more will be saved.
            self._last = steps, start.snapshot._replace(best=None)
        self.best = start.snapshot.best if start else None
        records = start.record["best_records"] if start else None
        self.records: dict[int, dict] = {int(i): r for i, r in (records or {}).items()}

    def update(self, step: int, snapshot: Snapshot) -> None:
        """Keep what is asked for of `snapshot`, after the rows up to it are written."""
        if self._settings.last:
            self._last = step, snapshot
        if not self._settings.best:
            return
        is_newest = np.zeros(self._size, bool)
        for index, member in self._members.items():
            own = member.prepared
            best = own.recorder.best_step(own.objective)
            is_newest[index] = best in (None, step)
            if best == step:
                self.records[index] = own.checkpoints.describe(step)
        if self.best is None:
            self.best = snapshot
        elif is_newest.any():
            self.best = _chosen(is_newest, snapshot, self.best)

    def only(self, start: Start, indices: Sequence[int], size: int) -> Start:
        """`start` with these members alone, copies of the last of them, and their best.

        Args:
          start: of the whole population.
          indices: of those that continue.
          size: of the population that they will be.
        """
        taken = np.array([*indices, *[indices[-1]] * (size - len(indices))])
        run = self._members[indices[0]].run
        target = start_shapes(run.spec, run.values, size)

        def take(snapshot: Snapshot) -> Snapshot:
            return jax.tree.map(
                lambda x, new: jax.device_put(x[taken], new.sharding),
                snapshot._replace(best=None),
                target,
            )

        snapshot = take(start.snapshot)
        if self.best is not None:
            snapshot = snapshot._replace(best=take(self.best))
        records = {
            str(new): self.records[old]
            for new, old in enumerate(indices)
            if old in self.records
        }
        return Start(start.step, snapshot, {"best_records": records})

    def write(self, index: int, member: Member, ended: bool) -> None:
        """Write the states of a member that ends to its own folder.

        Not in several threads at once: Orbax can't.

        Args:
          ended: whether the newest state is its last, as it has not failed.

        Raises:
          Unwritable: they can't be written, e.g. because the disk is full.
        """
        own = member.prepared.checkpoints
        found = {}
        if index in self.records:
            record = self.records[index]
            found[record["best"][member.prepared.objective]["step"]] = self.best, record
        if self._last is not None and ended:
            step, snapshot = self._last
            found[step] = snapshot, own.describe(step)
        if not found:
            return
        # Those of a sweep that was killed meanwhile.
        shutil.rmtree(own.folder, ignore_errors=True)
        with own:
            for step, (snapshot, record) in sorted(found.items()):
                own.write(step, _member(snapshot, index), record)


@jax.jit
def _chosen(is_new: jax.Array, new: Snapshot, old: Snapshot) -> Snapshot:
    """For each member, the leading axis, its part of `new` or of `old`."""

    def choose(new, old):
        return jnp.where(is_new.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)


@jax.jit
def _member(snapshot: Any, index: int) -> Any:
    """One member's part of a population's `snapshot`."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), snapshot
    )
