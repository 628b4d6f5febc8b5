"""The compiled program that runs share when only numbers differ between them."""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from runner import call, step
from runner.checkpoint import Snapshot
from runner.data import feed
from runner.data.dataset import Dataset, eval_indices
from runner.errors import ConfigError
from runner.frameworks.pipeline import Pipeline
from runner.losses import Loss
from runner.mesh import Mesh, population_mesh
from runner.step import Values
from runner.strategy import loops

# One call of the loop costs the host about as much as ten steps of a small model.
LOOP_CAPACITY = 256


class Static(NamedTuple):
    """Everything that a program is made from and that is not an argument of it.

    Attributes:
      description: plain values that tell programs apart; runs in which it is equal
        share one. `key` is its hash.
      train_step: `step.train_step`, jitted, so that whoever traces it first does so for
        all.
      steps_per_call: None leaves it to the rule of `loops`.
    """

    description: dict[str, Any]
    pipeline: Pipeline
    train_step: Any
    loss: Loss
    dataset: Dataset
    mesh: Mesh
    averaging: bool
    microbatches: int
    steps_per_call: int | None

    @property
    def key(self) -> str:
        return key(self.description)


def key(description: dict[str, Any]) -> str:
    """Names the program that `description` tells from others."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Population(NamedTuple):
    """Runs that train side by side, under `vmap`: how many, and their longest call."""

    members: int
    most_steps: int


class Program(NamedTuple):
    """Compiled functions. For a population, what each of its members has of its own,
    `batches` and `learning_rates` among it, has the members as its first dimension.

    Attributes:
      init: (key, learning_rate, hyperparameters) -> carry.
      train: (carry, columns, batches, learning_rates, logged, first_step, count,
        eval_loss, values) -> (carry, rows). Takes `count` steps, at most `capacity`,
        which is the length of `batches`, `learning_rates`, `logged` and `rows`.
      evaluate: (carry, columns, batches, totals) -> (totals, means) over
        `eval_capacity` batches and those before.
      totals: what the first call of `evaluate` starts from.
      bytes: that a training call needs on each device, as far as XLA tells.
      compile_seconds: to trace and compile these; 0 if an earlier run's are used.
    """

    init: Callable
    train: Callable
    evaluate: Callable
    capacity: int
    eval_capacity: int
    totals: dict[str, np.ndarray]
    mesh: Mesh
    bytes: int
    compile_seconds: float


_programs: dict[tuple[str, Population | None], Program] = {}


def program(
    static: Static, values: Values, population: Population | None = None
) -> Program:
    """The compiled program of `static`, made once a process.

    Args:
      static: what it is made from.
      values: of one run; only their shapes and types matter.
      population: None for one run alone.
    """
    name = static.key, population
    if name in _programs:
        return _programs[name]._replace(compile_seconds=0.0)
    return _programs.setdefault(name, _compile(static, values, population))


def step_jaxpr(static: Static, values: Values) -> Jaxpr:
    """A training step, for the rules of `runner.strategy`."""
    carry, example = _carry(static, values), feed.example(static.dataset)
    traced = static.train_step.trace(*_step_arguments(carry, example, values))
    return traced.jaxpr.jaxpr


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
    arguments = _step_arguments(carry, example, values)
    _, row = static.train_step.trace(*arguments).out_info
    mask = jax.ShapeDtypeStruct((static.dataset.batch_size,), jnp.float32)
    evaluation = jax.eval_shape(
        step.eval_step(static.pipeline, static.loss), carry, example | {"mask": mask}
    )
    means = [f"eval/{name}" for name in evaluation if name != "count"]
    return [*row, *means, "time/steps_per_second"]


def start_shapes(
    static: Static, values: Values, population: Population | None = None
) -> Snapshot:
    """What a call of the program takes of those before it: shapes and shardings."""
    mesh, lead = _mesh(static, population)
    news = jax.ShapeDtypeStruct((), jnp.float32)
    return _placed(Snapshot(_carry(static, values), news), mesh.carry, lead)


def _mesh(static: Static, population: Population | None) -> tuple[Mesh, tuple]:
    """Where a program's arrays are, and the dimension that members add to them."""
    if population is None:
        return static.mesh, ()
    members = population.members
    return population_mesh(static.mesh.devices, members), (members,)


def _carry(static: Static, values: Values) -> Any:
    init = step.init(static.pipeline, static.averaging)
    return jax.eval_shape(init, values.key, np.float32(0), values.hyperparameters)


def _step_arguments(carry: Any, batch: Any, values: Values) -> tuple:
    rate, logged, eval_loss = jnp.float32(0), jnp.bool(False), jnp.float32(0)
    return carry, batch, jnp.int32(0), rate, logged, eval_loss, values


def _capacities(
    static: Static, values: Values, population: Population | None
) -> tuple[int, int]:
    """How many steps a training call takes at most, and batches an evaluation call."""
    looped = loops(step_jaxpr(static, values), jax.default_backend())
    steps = static.steps_per_call
    if steps is None:
        steps = feed.steps_that_fit(static.dataset, LOOP_CAPACITY) if looped else 1
    if population:
        steps = min(steps, population.most_steps)
    eval_batches = len(eval_indices(static.dataset)[0])
    evals = feed.steps_that_fit(static.dataset, eval_batches) if looped else 1
    return steps, evals


def _compile(static: Static, values: Values, population: Population | None) -> Program:
    started = time.perf_counter()
    dataset = static.dataset
    capacity, eval_capacity = _capacities(static, values, population)
    functions = _functions(static, capacity, eval_capacity, population)
    init, train, evaluate = functions
    mesh, lead = _mesh(static, population)

    def own(tree):  # of each member
        return _placed(tree, mesh.carry, lead)

    def ready(function, *arguments, **options):
        options["out_shardings"] = mesh.carry
        return _ready(jax.jit(function, **options), *arguments)

    carry = start_shapes(static, values, population).carry
    columns, eval_columns = (
        _placed(feed.column_shapes(dataset, split), mesh.replicated)
        for split in (dataset.train, dataset.eval)
    )
    batches = _placed(feed.train_shapes(dataset, capacity), mesh.batches, lead)
    eval_shapes = feed.eval_shapes(dataset, eval_capacity)
    eval_batches = _placed(eval_shapes, mesh.eval_batches)
    totals = _totals(static, _carry(static, values), eval_columns, eval_batches)
    numbers = jax.eval_shape(lambda: values)
    number, rates = (jax.ShapeDtypeStruct(n, jnp.float32) for n in ((), (capacity,)))
    logged, one = np.zeros(capacity, bool), np.int32(0)
    trained = ready(
        train, carry, columns, batches, own(rates), logged, one, one, own(number),
        own(numbers), donate_argnums=0,
    )  # fmt: skip
    return Program(
        ready(init, own(numbers.key), own(number), own(numbers.hyperparameters)),
        trained,
        ready(evaluate, carry, eval_columns, eval_batches, own(totals)),
        capacity,
        eval_capacity,
        {k: np.zeros((*lead, *s.shape), s.dtype) for k, s in totals.items()},
        mesh,
        _bytes(trained),
        time.perf_counter() - started,
    )


def _functions(
    static: Static, capacity: int, eval_capacity: int, population: Population | None
) -> tuple[Callable, Callable, Callable]:
    """`init`, `train` and `evaluate`, not yet compiled."""
    train_step, axis = static.train_step, None
    if population:
        axis = "members"
        train_step = step.train_step(static.pipeline, static.microbatches, axis)
    init = step.init(static.pipeline, static.averaging)
    train = call.train_call(train_step, static.dataset, capacity)
    evaluate = call.eval_call(
        step.eval_step(static.pipeline, static.loss), static.dataset, eval_capacity
    )
    if population:
        # In the order of their arguments: 0 what each member has of its own, None what
        # they share.
        init = jax.vmap(init)
        train = jax.vmap(train, (0, None, 0, 0, None, None, None, 0, 0), axis_name=axis)
        evaluate = jax.vmap(evaluate, (0, None, None, 0))
    return init, train, evaluate


def _bytes(compiled: Any) -> int:
    analysis = getattr(compiled, "memory_analysis", lambda: None)()
    if analysis is None:
        return 0
    used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return used + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes


def _ready(jitted: Any, *arguments: Any) -> Callable:
    """`jitted`, compiled. With debug_nans as it is: only so does JAX find the NaN."""
    if jax.config.jax_debug_nans:  # pyright: ignore[reportAttributeAccessIssue]
        return jitted
    return jitted.lower(*arguments).compile()


def _placed(shapes: Any, sharding: Any, lead: tuple[int, ...] = ()) -> Any:
    def placed(x):
        shape = (*lead, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes)


def _totals(static: Static, carry, columns, batches) -> dict[str, Any]:
    def sums(carry, columns, batches):
        batch = feed.batch_at(static.dataset, columns, batches, 0)
        return step.eval_step(static.pipeline, static.loss)(carry, batch)

    return jax.eval_shape(sums, carry, columns, batches)
