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
from runner.data import feed
from runner.data.dataset import Dataset, eval_indices
from runner.errors import ConfigError
from runner.frameworks.pipeline import Pipeline
from runner.losses import Loss
from runner.mesh import Mesh, population_mesh
from runner.program_cache import Entry
from runner.step import Values
from runner.strategy import loops

# One call of the loop costs the host about as much as ten steps of a small model.
LOOP_CAPACITY = 256


class Static(NamedTuple):
    """Everything that a program is made from and that is not an argument of it.

    Attributes:
      description: plain values that tell programs apart; runs in which it is equal
        share one. `key` is its hash.
      init, train_step, eval_step: those of `runner.step`, jitted, so that whoever
        traces one first does so for all.
      steps_per_call: None leaves it to the rule of `loops`.
      entry: what an earlier process has kept of it, or this one will.
    """

    description: dict[str, Any]
    pipeline: Pipeline
    init: Any
    train_step: Any
    eval_step: Any
    loss: Loss
    dataset: Dataset
    mesh: Mesh
    microbatches: int
    steps_per_call: int | None
    entry: Entry

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
    if population:
        compiled = _compile(static, values, population)
    else:
        compiled = _kept(static, values)
    return _programs.setdefault(name, compiled)


def _kept(static: Static, values: Values) -> Program:
    """The program of a run alone, from `static.entry` if it is there."""
    started, entry = time.perf_counter(), static.entry
    if entry.is_new:
        compiled = _compile(static, values, None)
        sizes = compiled.capacity, compiled.eval_capacity
        entry.facts["program"] = *sizes, compiled.totals
        return compiled
    train, evaluate = entry.found("train"), entry.found("evaluate")
    capacity, eval_capacity, totals = entry.facts["program"]
    return Program(
        init(static, values),
        train,
        evaluate,
        capacity,
        eval_capacity,
        totals,
        static.mesh,
        _bytes(train),
        time.perf_counter() - started,
    )


def init(static: Static, values: Values) -> Callable:
    """`Program.init` of a run alone, made once a process.

    Args:
      static: what it is made from.
      values: of one run; only their shapes and types matter.
    """
    mesh = static.mesh
    arguments = jax.eval_shape(lambda: _init_arguments(values))
    jitted = jax.jit(static.init, out_shardings=mesh.carry)
    return static.entry.function("init", jitted, *_placed(arguments, mesh.replicated))


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
    mask = jax.ShapeDtypeStruct((static.dataset.batch_size,), jnp.float32)
    masked = example | {"mask": mask}
    outputs = jax.eval_shape(static.pipeline.predict, carry.state, masked)
    wanted = (static.dataset.batch_size, static.loss.output_size(static.dataset))
    if outputs.shape != wanted:
        raise ConfigError(
            f"the model's outputs have shape {outputs.shape}, but the loss needs "
            f"{wanted} for data={static.dataset.name}; another model or loss fits"
        )
    arguments = _step_arguments(carry, example, values)
    _, row = static.train_step.trace(*arguments).out_info
    evaluation = jax.eval_shape(static.eval_step, carry, masked)
    means = [f"eval/{name}" for name in evaluation if name != "count"]
    return [*row, *means, "time/steps_per_second"]


def _carry(static: Static, values: Values) -> Any:
    traced = static.init.trace(*_init_arguments(values))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), traced.out_info
    )


def _init_arguments(values: Values) -> tuple:
    return values.key, np.float32(0), values.hyperparameters


def _step_arguments(carry: Any, batch: Any, values: Values) -> tuple:
    rate, logged, eval_loss = np.float32(0), np.bool_(False), np.float32(0)
    return carry, batch, np.int32(0), rate, logged, eval_loss, values


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
    train, evaluate = _functions(static, capacity, eval_capacity, population)
    mesh, lead = static.mesh, ()
    if population:
        lead = (population.members,)
        mesh = population_mesh(static.mesh.devices, *lead)

    def own(tree):  # of each member
        return _placed(tree, mesh.carry, lead)

    def ready(name, function, *arguments, **options):
        jitted = jax.jit(function, out_shardings=mesh.carry, **options)
        if population:
            return _ready(jitted, *arguments)
        return static.entry.function(name, jitted, *arguments)

    carry = own(_carry(static, values))
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
        "train", train, carry, columns, batches, own(rates), logged, one, one,
        own(number), own(numbers), donate_argnums=0,
    )  # fmt: skip
    initial = init(static, values)
    if population:
        arguments = own(numbers.key), own(number), own(numbers.hyperparameters)
        initial = ready("init", jax.vmap(static.init), *arguments)
    return Program(
        initial,
        trained,
        ready("evaluate", evaluate, carry, eval_columns, eval_batches, own(totals)),
        capacity,
        eval_capacity,
        {k: np.zeros((*lead, *s.shape), s.dtype) for k, s in totals.items()},
        mesh,
        _bytes(trained),
        time.perf_counter() - started,
    )


def _functions(
    static: Static, capacity: int, eval_capacity: int, population: Population | None
) -> tuple[Callable, Callable]:
    """`train` and `evaluate`, not yet compiled."""
    train_step, axis = static.train_step, None
    if population:
        axis = "members"
        train_step = step.train_step(static.pipeline, static.microbatches, axis)
    train = call.train_call(train_step, static.dataset, capacity)
    evaluate = call.eval_call(static.eval_step, static.dataset, eval_capacity)
    if population:
        # In the order of their arguments: 0 what each member has of its own, None what
        # they share.
        train = jax.vmap(train, (0, None, 0, 0, None, None, None, 0, 0), axis_name=axis)
        evaluate = jax.vmap(evaluate, (0, None, None, 0))
    return train, evaluate


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
        return static.eval_step(carry, batch)

    return jax.eval_shape(sums, carry, columns, batches)
