"""Digests that distinguish runs by what they did, not by their names."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks.verify import Found
from runner.core.run import Run
from runner.data.dataset import Dataset
from runner.data.order import Order

ORDERED_STEPS = 64  # covered by the digest of the data order


def identify(run: Run, found: Found, init: Callable) -> dict[str, Any]:
    """The digests of a run for its record.

    Args:
      run: the run that trains.
      found: by verification.
      init: `Program.init` of a single run.

    Returns:
      `optimizer_probe`, `initial_parameters` and `data_order`: if one differs between
      two runs, so does what it is named after.
    """
    return {
        "optimizer_probe": found.probe,
        "initial_parameters": initial_parameters(run, init),
        "data_order": data_order(run.spec.dataset, run.order),
    }


def initial_parameters(run: Run, init: Callable) -> str:
    """A digest of the initial parameters: equal for equal names, shapes and bits."""
    carry = init(run.init_key, run.learning_rates[0], run.values.hyperparameters)
    digests = _digests((carry.state.params, carry.state.model_state))
    leaves = jax.tree.leaves_with_path(digests)
    leaves = [(jax.tree_util.keystr(path), int(leaf)) for path, leaf in leaves]
    return _sha(repr(leaves).encode())


def data_order(dataset: Dataset, order: Order) -> str:
    """A digest of the order of the first examples, and of the first batch itself."""
    rows = order.indices(0, min(order.steps_per_epoch, ORDERED_STEPS))
    first = np.arange(1)
    batches = [dataset.train.rows(rows[0])]
    batches += [split.rows(first) for split in dataset.evaluated.values()]
    sizes = np.array([len(split) for split in dataset.splits.values()])
    arrays = [rows, sizes, *(a for batch in batches for a in batch.values())]
    return _sha(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


@jax.jit
def _digests(tree: Any) -> Any:
    return jax.tree.map(_digest, tree)


def _digest(leaf: jax.Array) -> jax.Array:
    """A uint32 that depends on each bit and its position; sums wrap, in any order."""
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint8).ravel().astype(jnp.uint32)
    places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    mixed = (bits + 1) * places * jnp.uint32(2654435761)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
