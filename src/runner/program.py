"""The compiled program that runs share when only numbers differ between them."""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from runner import call, step
from runner.data import feed
from runner.data.dataset import Dataset, eval_indices
from runner.errors import ConfigError
from runner.frameworks.pipeline import Pipeline
from runner.losses import Loss
from runner.mesh import Mesh
from runner.step import Values

# One call of the loop costs the host about as much as ten steps of a small model.
LOOP_CAPACITY = 256


class Static(NamedTuple):
    """Everything that a program is made from and that is not an argument of it.

    Attributes:
      description: plain values that tell programs apart; runs in which it is equal
        share one. `key` is its hash.
      steps_per_call: None leaves it to the rule of `loops`.
    """

    description: dict[str, Any]
    pipeline: Pipeline
    loss: Loss
    dataset: Dataset
    mesh: Mesh
    averaging: bool
    microbatches: int
    steps_per_call: int | None

    @property
    def key(self) -> str:
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Program(NamedTuple):
    """Compiled functions.

    Attributes:
      init: (key, learning_rate, hyperparameters) -> carry.
      train: (carry, columns, batches, learning_rates, logged, first_step, count,
        eval_loss, values) -> (carry, rows). Takes `count` steps, at most `capacity`,
        which is the length of `batches`, `learning_rates`, `logged` and `rows`.
      evaluate: (carry, columns, batches, totals) -> (totals, means) over
        `eval_capacity` batches and those before.
      totals: what the first call of `evaluate` starts from.
      compile_seconds: to trace and compile these; 0 if an earlier run's are used.
    """

    init: Callable
    train: Callable
    evaluate: Callable
    capacity: int
    eval_capacity: int
    totals: dict[str, np.ndarray]
    compile_seconds: float


_programs: dict[str, Program] = {}


def program(static: Static, values: Values) -> Program:
    """The compiled program of `static`, made once a process."""
    if static.key in _programs:
        return _programs[static.key]._replace(compile_seconds=0.0)
    return _programs.setdefault(static.key, _compile(static, values))


def check(static: Static, values: Values) -> list[str]:
    """Trace a step and an evaluation, so that what can't run says so in no time.

    Returns:
      the names of the metrics that the run will have.
    """
    carry = _carry(static, values)
    example = feed.example(static.dataset)
    outputs = jax.eval_shape(static.pipeline.predict, carry.state, example)
    wanted = (static.dataset.batch_size, static.loss.output_size(static.dataset))
    if outputs.shape != wanted:
        raise ConfigError(
            f"the model's outputs have shape {outputs.shape}, but the loss needs "
            f"{wanted} for data={static.dataset.name}; another model or loss fits"
        )
    train_step = step.train_step(static.pipeline, static.microbatches)
    _, row = jax.eval_shape(train_step, *_step_arguments(carry, example, values))
    mask = jax.ShapeDtypeStruct((static.dataset.batch_size,), jnp.float32)
    evaluation = jax.eval_shape(
        step.eval_step(static.pipeline, static.loss), carry, example | {"mask": mask}
    )
    means = [f"eval/{name}" for name in evaluation if name != "count"]
    return [*row, *means, "time/steps_per_second"]


def loops(jaxpr: Jaxpr, backend: str) -> bool:
    """Whether several steps of `jaxpr` go into one call of the compiled program.

    They do where a call costs the host more than a small model's step takes. But XLA
    runs a convolution inside a loop on CPU 20 to 40 times slower than outside one
    (jax #12868), so such a step is a call of its own there.
    """
    return backend != "cpu" or not _contains(jaxpr, "conv_general_dilated")


def _contains(jaxpr: Jaxpr, primitive: str) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            return True
        inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)
        for value in filter(_is_jaxpr, inner):
            value = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if _contains(value, primitive):
                return True
    return False


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)


def _carry(static: Static, values: Values) -> Any:
    init = step.init(static.pipeline, static.averaging)
    return jax.eval_shape(init, values.key, np.float32(0), values.hyperparameters)


def _step_arguments(carry: Any, batch: Any, values: Values) -> tuple:
    rate, logged, eval_loss = jnp.float32(0), jnp.bool(False), jnp.float32(0)
    return carry, batch, jnp.int32(0), rate, logged, eval_loss, values


def _capacities(static: Static, train_step: Any, values: Values) -> tuple[int, int]:
    """How many steps a training call takes at most, and batches an evaluation call."""
    carry, example = _carry(static, values), feed.example(static.dataset)
    traced = train_step.trace(*_step_arguments(carry, example, values))
    looped = loops(traced.jaxpr.jaxpr, jax.default_backend())
    steps = static.steps_per_call
    if steps is None:
        steps = feed.steps_that_fit(static.dataset, LOOP_CAPACITY) if looped else 1
    eval_batches = len(eval_indices(static.dataset)[0])
    evals = feed.steps_that_fit(static.dataset, eval_batches) if looped else 1
    return steps, evals


def _compile(static: Static, values: Values) -> Program:
    started = time.perf_counter()
    mesh, dataset = static.mesh, static.dataset
    train_step = jax.jit(step.train_step(static.pipeline, static.microbatches))
    capacity, eval_capacity = _capacities(static, train_step, values)
    init = jax.jit(
        step.init(static.pipeline, static.averaging), out_shardings=mesh.replicated
    )
    train = jax.jit(
        call.train_call(train_step, dataset, capacity),
        donate_argnums=0,
        out_shardings=mesh.replicated,
    )
    evaluate = jax.jit(
        call.eval_call(
            step.eval_step(static.pipeline, static.loss), dataset, eval_capacity
        ),
        out_shardings=mesh.replicated,
    )
    carry = _placed(_carry(static, values), mesh.replicated)
    columns, eval_columns = (
        _placed(feed.column_shapes(dataset, split), mesh.replicated)
        for split in (dataset.train, dataset.eval)
    )
    batches = _placed(feed.train_shapes(dataset, capacity), mesh.batches)
    eval_batches = _placed(feed.eval_shapes(dataset, eval_capacity), mesh.batches)
    totals = _totals(static, carry, eval_columns, eval_batches)
    one, real = np.int32(0), np.float32(0)
    rates, logged = np.zeros(capacity, np.float32), np.zeros(capacity, bool)
    return Program(
        _ready(init, values.key, real, values.hyperparameters),
        _ready(train, carry, columns, batches, rates, logged, one, one, real, values),
        _ready(evaluate, carry, eval_columns, eval_batches, totals),
        capacity,
        eval_capacity,
        totals,
        time.perf_counter() - started,
    )


def _ready(jitted: Any, *arguments: Any) -> Callable:
    """`jitted`, compiled. With debug_nans as it is: only so does JAX find the NaN."""
    if jax.config.jax_debug_nans:  # pyright: ignore[reportAttributeAccessIssue]
        return jitted
    return jitted.lower(*arguments).compile()


def _placed(shapes: Any, sharding: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )


def _totals(static: Static, carry, columns, batches) -> dict[str, np.ndarray]:
    def sums(carry, columns, batches):
        batch = feed.batch_at(static.dataset, columns, batches, 0)
        return step.eval_step(static.pipeline, static.loss)(carry, batch)

    shapes = jax.eval_shape(sums, carry, columns, batches)
    return {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}
