"""Training loops as people write them, with a run's model, batches and optimizer."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from runner.core.run import Run
from runner.data.dataset import MemorySplit
from runner.data.transforms import transformed
from runner.models import cnn

Loss = Callable[[Any, dict], jax.Array]  # (model, batch) -> loss


def arrays(run: Run) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Transformed columns, and the rows of each step [steps, batch_size]."""
    split = run.spec.dataset.train
    assert isinstance(split, MemorySplit)
    columns = transformed(run.spec.dataset.transforms, split.columns, None)
    rows = run.order.indices(0, len(run.learning_rates))
    return {name: np.asarray(column) for name, column in columns.items()}, rows


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def classification(model, batch):
    return cross_entropy(model(batch["input"]), batch["label"])


def next_token(model, batch):
    logits, weights = model(batch["tokens"]), batch["counts"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["next"])
    return (weights * losses).sum() / weights.sum()


def scan_loop(run: Run) -> Callable[[], float]:
    """The MLP in pure JAX: 1000 steps in a `lax.scan`, everything on the device."""
    columns, rows = arrays(run)
    inputs, labels = map(jnp.asarray, (columns["input"], columns["label"]))
    inputs, rows = inputs.reshape(len(inputs), -1), jnp.asarray(rows)
    chunks = [rows[i : i + 1000] for i in range(0, len(rows), 1000)]
    tx = optax.adam(float(run.learning_rates[0]))

    def loss_fn(params, x, y):
        for name in ("dense_0", "dense_1"):
            x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
        logits = x @ params["output"]["kernel"] + params["output"]["bias"]
        return cross_entropy(logits, y)

    def step(carry, rows):
        params, state = carry
        grads = jax.grad(loss_fn)(params, inputs[rows], labels[rows])
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    chunk = jax.jit(lambda carry, rows: jax.lax.scan(step, carry, rows)[0])
    start = initial(run)
    carry = start, tx.init(start)

    def loop():
        done = carry
        started = time.perf_counter()
        for rows in chunks:
            done = chunk(done, rows)
        jax.block_until_ready(done)
        return time.perf_counter() - started

    return loop


def initial(run: Run):
    init = run.spec.pipeline.init
    return init(run.init_key, run.learning_rates[0], run.values.hyperparameters).params


def nnx_loop(
    run: Run, model: nnx.Module, loss: Loss, steps: int
) -> Callable[[], float]:
    """As in flax's tutorial: `nnx.jit`, one call per step, NumPy batches.

    It takes only `steps` steps, and returns the time of all.
    """
    columns, rows = arrays(run)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        value, grads = nnx.value_and_grad(loss)(model, batch)
        optimizer.update(model, grads)
        return value

    def loop():
        started = time.perf_counter()
        for i in range(steps):
            batch = {name: column[rows[i]] for name, column in columns.items()}
            value = step(model, optimizer, batch)
        jax.block_until_ready((value, nnx.state(model)))
        return (time.perf_counter() - started) * len(rows) / steps

    return loop


def nnx_scan(run: Run, model: nnx.Module, loss: Loss) -> Callable[[], float]:
    """A model of nnx in one `lax.scan` over all steps, everything on the device."""
    columns, rows = jax.device_put(arrays(run))
    tx = optax.adam(float(run.learning_rates[0]))
    graph, params, others = nnx.split(model, nnx.Param, ...)

    def step(columns, carry, rows):
        params, others, state = carry
        batch = {name: column[rows] for name, column in columns.items()}

        def loss_fn(params):
            model = nnx.merge(graph, params, others, copy=True)
            return loss(model, batch), nnx.split(model, nnx.Param, ...)[2]

        grads, others = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), others, state), None

    @jax.jit
    def scan(carry, columns, rows):
        return jax.lax.scan(lambda *given: step(columns, *given), carry, rows)[0]

    carry = params, others, tx.init(params)

    def loop():
        started = time.perf_counter()
        jax.block_until_ready(scan(carry, columns, rows))
        return time.perf_counter() - started

    return loop


def cnn_loop(run: Run) -> Callable[[], float]:
    """The CNN by hand in linen: one call of a jitted step, data on the device."""
    columns, rows = arrays(run)
    inputs, labels = columns["input"], columns["label"]
    model = cnn.Linen((32, 64), 3, 128, 10, jax.nn.relu, 0.0, 0.9, "float32")
    tx = optax.adam(float(run.learning_rates[0]))
    data = jax.device_put((inputs, labels))

    def step(carry, data, rows):
        params, stats, state = carry
        x, y = data[0][rows], data[1][rows]

        def loss_fn(params):
            variables = {"params": params, "batch_stats": stats}
            logits, new = model.apply(variables, x, True, mutable=["batch_stats"])
            return cross_entropy(logits, y), new["batch_stats"]

        grads, stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), stats, state

    step = jax.jit(step, donate_argnums=0)

    def loop():
        start = model.init(jax.random.key(0), inputs[:64], False)
        carry = start["params"], start["batch_stats"], tx.init(start["params"])
        jax.block_until_ready(carry)
        started = time.perf_counter()
        for row in rows:
            carry = step(carry, data, row)
        jax.block_until_ready(carry)
        return time.perf_counter() - started

    return loop
