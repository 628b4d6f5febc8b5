"""The state of a run between two steps, as it is saved and restored."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Snapshot(NamedTuple):
    """All that a step needs from earlier ones; the rest follows from seed and step.

    Attributes:
      carry: parameters, model state, optimizer state and the parameters' average.
      eval_loss: that of an evaluation that the next step has yet to use, else inf.
      best: of a population that keeps the best state of each member, those; else None.
    """

    carry: Any
    eval_loss: Any
    best: "Snapshot | None" = None


def copied(snapshot: Snapshot) -> Snapshot:
    """A copy on the devices: the original is donated to the next call."""
    return jax.tree.map(jnp.copy, snapshot)


def on_host(tree: Any) -> Any:
    """`tree` as NumPy arrays, also where several processes hold their parts."""

    def gathered(leaf):
        whole = leaf.is_fully_addressable or leaf.is_fully_replicated
        if whole:
            return leaf
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(gathered, tree))


class Start(NamedTuple):
    """Where training continues: after `step`, with `snapshot`.

    `record` is what was saved beside the arrays, as JSON; the loop doesn't read it.
    """

    step: int
    snapshot: Snapshot
    record: dict[str, Any]
