"""What tells runs apart by what they did, not by what they are called."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.checks.problem import float64_on_cpu, live_changes, start
from runner.core import program
from runner.core.optimization import Optimization
from runner.core.pipeline import Pipeline
from runner.core.train import Run
from runner.data.dataset import Dataset
from runner.data.order import Order
from runner.models.mlp import mlp
from runner.models.model import Model
from runner.record.program_cache import Entry

ORDERED_STEPS = 64  # whose rows the digest of the data covers


def identify(run: Run) -> dict[str, Any]:
    """The digests of a run for its record.

    Returns:
      `optimizer_probe`, `initial_parameters` and `data_order`. Where one differs
      between two runs, so did what it is made from.
    """
    values = run.optimizer.hyperparameters
    return {
        "optimizer_probe": optimizer_probe(
            run.toy, values, run.wanted, run.static.entry
        ),
        "initial_parameters": initial_parameters(run),
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


def toy_batch() -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of the shapes that `toy_model` takes."""
    return {"input": jax.ShapeDtypeStruct((1, 2), jnp.float32)}


def optimizer_probe(
    toy: Pipeline,
    hyperparameters: dict[str, float],
    wanted: Optimization,
    entry: Entry,
) -> list[float]:
    """What the optimizer did to a small model: changes of one of its parameters.

    Runs with other probes are updated in other ways, whatever their configs call it.
    To six digits, so that another machine's rounding doesn't show; no seed changes it.

    Args:
      toy: the run's pipeline, but of `toy_model`.
      hyperparameters: what the run gives it.
      wanted: for its learning rates.
      entry: of the run's program, which keeps those of this.
    """

    def init(hyperparameters):
        return toy.init(jax.random.key(0), jnp.float32(1), hyperparameters)

    on_host = functools.partial(entry.function, on_host=True)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        ready = on_host("toy_init", jax.jit(init), hyperparameters)
        initial = ready(hyperparameters)
    with float64_on_cpu():
        state, problem = start(initial, wanted)
        ready = functools.partial(on_host, "toy_step")
        changes = live_changes(toy, state, problem, hyperparameters, wanted, ready)
        # A weight with a gradient, the one whose gradient is zero, and a bias.
        layers = [change["output"] for change in changes]
        told = [[*np.ravel(x["kernel"])[[0, 3]], x["bias"][0]] for x in layers]
    return [float(f"{value:.6g}") for value in np.ravel(told)]


def initial_parameters(run: Run) -> str:
    """A digest of the initial parameters: equal for equal names, shapes and bits."""
    init = program.init(run.static, run.values)
    carry = init(run.init_key, run.learning_rates[0], run.values.hyperparameters)
    told = carry.state.params, carry.state.model_state
    digests = run.static.entry.function("digests", jax.jit(_digests), told)(told)
    leaves = jax.tree.leaves_with_path(digests)
    leaves = [(jax.tree_util.keystr(path), int(leaf)) for path, leaf in leaves]
    return _sha(repr(leaves).encode())


def data_order(dataset: Dataset, order: Order) -> str:
    """A digest of the order of the first examples, and of the first batch itself."""
    rows = order.indices(0, min(order.steps_per_epoch, ORDERED_STEPS))
    batches = dataset.train.rows(rows[0]), dataset.eval.rows(np.arange(1))
    sizes = np.array([len(dataset.train), len(dataset.eval)])
    arrays = [rows, sizes, *(a for batch in batches for a in batch.values())]
    return _sha(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def _digests(tree: Any) -> Any:
    return jax.tree.map(_digest, tree)


def _digest(leaf: jax.Array) -> jax.Array:
    """uint32 that changes with any bit or place; sums wrap, so in any order."""
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint8).ravel().astype(jnp.uint32)
    places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    mixed = (bits + 1) * places * jnp.uint32(2654435761)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
