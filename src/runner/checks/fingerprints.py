"""Digests that distinguish runs by what they did, not by their names."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from runner.core import feed
from runner.core.compiling import Compiling
from runner.core.keep import Keep
from runner.core.run import Run
from runner.core.shapes import with_sharding
from runner.core.step import training_batch
from runner.data.dataset import Dataset
from runner.data.digest import data_digest, repeated, rows_digest, sha, unrepeatable
from runner.data.order import Order
from runner.errors import ConfigError
from runner.trees import is_key

ORDERED_STEPS = 64  # covered by the digest of the data order
FINGERPRINTS = (
    "optimizer_probe",
    "initial_parameters",
    "data_digest",
    "data_order",
    "first_batch",
)


class Examples:
    """Finds the fingerprints that the runs on a data set share, in the background.

    Args:
      dataset: all of it is read.
      key: PRNG key of the steps of any of the runs.
    """

    def __init__(self, dataset: Dataset, key: jax.Array):
        def first(batch, key):
            key = jax.random.fold_in(key, 0)
            return training_batch(dataset.transforms, batch, key)

        self._device = jax.local_devices(backend="cpu")[0]
        self._hashes: dict[str, np.ndarray] = {}
        pool = ThreadPoolExecutor(1, "runner-digest")
        self._unrepeatable = pool.submit(unrepeatable, dataset)
        self._digest = pool.submit(data_digest, dataset, self._hashes)
        pool.shutdown(wait=False)
        self._transformed = None
        if dataset.transforms:
            shapes = with_sharding(
                (feed.example(dataset), jax.eval_shape(lambda: key)),
                SingleDeviceSharding(self._device),
            )
            self._transformed = Compiling(jax.jit(first), *shapes)

    def digest(self) -> dict[str, Any]:
        """See `data_digest`."""
        return self._digest.result()

    @functools.cached_property
    def repeated(self) -> dict[str, int]:
        """See `runner.data.digest.repeated`."""
        self.digest()
        return repeated(self._hashes)

    def check(self) -> None:
        """Refuse examples that are others when they are read again.

        Raises:
          ConfigError: names the split.
        """
        if name := self._unrepeatable.result():
            raise ConfigError(
                f"verify: data.{name} gives other examples when it is read again. An "
                "example must depend on its number alone, or no run can be repeated: "
                "random changes belong into data.transforms. (verify=false trains "
                "anyway)"
            )

    def transformed(self, batch: dict[str, np.ndarray], key: jax.Array) -> dict:
        """`batch`, the one of step 1, after its transforms as a CPU computes them."""
        if self._transformed is None:
            return batch
        given = jax.device_put((batch, key), self._device)
        return jax.device_get(self._transformed.result()(*given))


def identify(
    run: Run, init: Callable, examples: Examples, keep: Keep
) -> dict[str, Any]:
    """The digests of a run for its record.

    Args:
      run: the run that trains.
      init: `Program.init` of a single run.
      examples: of the run's data set.
      keep: for what runs of one seed have in common.

    Returns:
      FINGERPRINTS, but for the probe of its optimizer: if one differs between two
      runs, so does what it is named after.
    """
    if run.config["verify"]:
        examples.check()
    return {
        "initial_parameters": initial_parameters(run, init),
        "data_digest": examples.digest(),
        "in_training_too": examples.repeated,
        "data_order": keep(
            ("data order", examples, run.order),
            lambda: data_order(run.spec.dataset, run.order),
        ),
        "first_batch": keep(
            ("first batch", examples, run.order, _bits(run.values.key)),
            lambda: first_batch(run, examples),
        ),
    }


def initial_parameters(run: Run, init: Callable) -> str:
    """A digest of the initial parameters: equal for equal names, shapes and bits."""
    carry = init(*run.init_arguments)
    digests = _digests((carry.state.params, carry.state.model_state))
    leaves = jax.tree.leaves_with_path(digests)
    leaves = [(jax.tree_util.keystr(path), int(leaf)) for path, leaf in leaves]
    return sha(repr(leaves).encode())


def data_order(dataset: Dataset, order: Order) -> str:
    """A digest of the first examples' order, if it changes, and of the first batch."""
    rows = order.indices(0, min(order.steps_per_epoch, ORDERED_STEPS))
    first = np.arange(1)
    batches = [dataset.train.rows(rows[0])]
    batches += [split.rows(first) for split in dataset.evaluated.values()]
    sizes = np.array([len(split) for split in dataset.splits.values()])
    arrays = [rows, sizes, *(a for batch in batches for a in batch.values())]
    if (rows[0] == order.indices_at(order.steps_per_epoch)).all():  # it never changes
        arrays.append(rows[0])
    return sha(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def first_batch(run: Run, examples: Examples) -> str:
    """A digest of the batch of step 1 after its transforms."""
    rows = run.spec.dataset.train.rows(run.order.indices_at(0))
    batch = examples.transformed(rows, run.values.key)
    return sha(repr(sorted(rows_digest(batch).items())).encode())


def _bits(key: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(key)).tobytes()


@jax.jit
def _digests(tree: Any) -> Any:
    return jax.tree.map(_digest, tree)


def _digest(leaf: jax.Array) -> jax.Array:
    """A uint32 that depends on each bit and its position; sums wrap, in any order."""
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == bool:  # which has no bits for JAX
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint8).ravel().astype(jnp.uint32)
    places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    mixed = (bits + 1) * places * jnp.uint32(2654435761)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)
