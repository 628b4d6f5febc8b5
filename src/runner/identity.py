"""What tells runs apart by what they did, not by what they are called."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.data.dataset import Dataset
from runner.data.order import Order
from runner.frameworks.pipeline import Pipeline
from runner.frameworks.sharded import sharded
from runner.models.mlp import mlp
from runner.models.model import Model
from runner.optimization import Optimization
from runner.train import Run
from runner.updates import float64_on_cpu, live_changes, start

ORDERED_STEPS = 64  # whose rows the digest of the data covers


def identify(run: Run) -> dict[str, Any]:
    """The digests of a run for its record.

    Returns:
      `optimizer_probe`, `initial_parameters` and `data_order`. Where one differs
      between two runs, so did what it is made from.
    """
    values = run.optimizer.hyperparameters
    return {
        "optimizer_probe": optimizer_probe(run.toy, values, run.wanted),
        "initial_parameters": initial_parameters(
            sharded(run.static.pipeline, run.static.mesh), run.init_key, values
        ),
        "data_order": data_order(run.static.dataset, run.order),
    }


def toy_model() -> Model:
    """The model of the optimizer probe: two layers of two units."""
    return mlp(
        input_shape=(2,),
        output_size=2,
        hidden_sizes=[2],
        activation="relu",
        dropout=0.0,
    )


def toy_batch() -> dict[str, jax.Array]:
    """A batch of the shapes that `toy_model` takes."""
    return {"input": jnp.zeros((1, 2))}


def optimizer_probe(
    toy: Pipeline, hyperparameters: dict[str, float], wanted: Optimization
) -> list[float]:
    """What the optimizer did to a small model: changes of one of its parameters.

    Runs with other probes are updated in other ways, whatever their configs call it.
    To six digits, so that another machine's rounding doesn't show; no seed changes it.

    Args:
      toy: the run's pipeline, but of `toy_model`.
      hyperparameters: what the run gives it.
      wanted: for its learning rates.
    """
    with float64_on_cpu():
        state, problem = start(toy, hyperparameters, wanted, jax.random.key(0))
        changes = live_changes(toy, state, problem, hyperparameters, wanted)
        # A weight with a gradient, the one whose gradient is zero, and a bias.
        layers = [change["output"] for change in changes]
        told = [[*np.ravel(x["kernel"])[[0, 3]], x["bias"][0]] for x in layers]
    return [float(f"{value:.6g}") for value in np.ravel(told)]


def initial_parameters(
    pipeline: Pipeline, key: Any, hyperparameters: dict[str, Any]
) -> str:
    """A digest of the initial parameters: equal for equal names, shapes and bits."""
    leaves = jax.tree.leaves_with_path(_digests(pipeline)(key, hyperparameters))
    told = [(jax.tree_util.keystr(path), int(leaf)) for path, leaf in leaves]
    return _sha(repr(told).encode())


@functools.lru_cache(maxsize=8)  # for the runs of a sweep, which share pipelines
def _digests(pipeline: Pipeline) -> Callable:
    @jax.jit
    def digests(key, hyperparameters):
        state = pipeline.init(key, 0.0, hyperparameters)
        return jax.tree.map(_digest, (state.params, state.model_state))

    return digests


def data_order(dataset: Dataset, order: Order) -> str:
    """A digest of the order of the first examples, and of the first batch itself."""
    rows = order.indices(0, min(order.steps_per_epoch, ORDERED_STEPS))
    batches = dataset.train.rows(rows[0]), dataset.eval.rows(np.arange(1))
    sizes = np.array([len(dataset.train), len(dataset.eval)])
    arrays = [rows, sizes, *(a for batch in batches for a in batch.values())]
    return _sha(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def _digest(leaf: jax.Array) -> jax.Array:
    """uint32 that changes with any bit or place; sums wrap, so in any order."""
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint8).ravel().astype(jnp.uint32)
    places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    mixed = (bits + 1) * places * jnp.uint32(2654435761)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
