"""The compiled program that runs share when only numbers differ between them."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from runner.core import feed, step
from runner.core.choose import loops
from runner.core.keep import Keep, make_anew
from runner.core.mesh import Mesh, population_mesh
from runner.core.pipeline import Pipeline
from runner.core.snapshot import Snapshot
from runner.core.step import Values
from runner.data.dataset import Dataset, eval_indices
from runner.errors import ConfigError
from runner.tasks.task import Task, numbers

# One call of the loop costs the host about as much as ten steps of a small model.
LOOP_CAPACITY = 256


class ProgramSpec(NamedTuple):
    """Everything that a program is made from, except its arguments.

    Attributes:
      description: plain values that identify the program; runs with equal ones share
        it. `key` is their hash.
      init, train_step, eval_step: those of `runner.core.step`, jitted, so that each is
        traced only once.
      steps_per_call: None leaves it to the rule of `loops`.
    """

    description: dict[str, Any]
    pipeline: Pipeline
    init: Any
    train_step: Any
    eval_step: Any
    task: Task
    dataset: Dataset
    mesh: Mesh
    averaging: bool
    microbatches: int
    steps_per_call: int | None

    @property
    def key(self) -> str:
        return key_of(self.description)


def key_of(description: dict[str, Any]) -> str:
    """The name of a program: a hash of its `description`."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Population(NamedTuple):
    """Runs that train side by side, under `vmap`: how many, and their longest call."""

    members: int
    most_steps: int


class Program(NamedTuple):
    """Compiled functions. In a population, per-member arguments and results (carry,
    batches, learning_rates, ...) have a leading member axis.

    Attributes:
      init: (key, learning_rate, hyperparameters) -> carry.
      train: (carry, columns, batches, learning_rates, logged, first_step, count,
        eval_loss, values) -> (carry, rows). Takes `count` steps, at most `capacity`,
        which is the length of `batches`, `learning_rates`, `logged` and `rows`.
      evaluate: (carry, columns, batches, totals) -> (totals, numbers) over
        `eval_capacity` batches and those of earlier calls. None without a split to
        evaluate.
      totals: zeros that the first call of `evaluate` starts from.
      data: returns the columns on the devices, which both read.
      eval_batches: returns one pass over the split of a name.
      members: of a population; None for a single run.
      bytes: memory of a training call on each device, as far as XLA reports it.
      compile_seconds: the time to trace and compile these.
    """

    init: Callable
    train: Callable
    evaluate: Callable | None
    capacity: int
    eval_capacity: int
    totals: Any
    mesh: Mesh
    data: Callable[[], feed.DeviceData]
    eval_batches: Callable[[str], Iterable[dict]]
    members: int | None
    bytes: int
    compile_seconds: float


def compile_program(
    spec: ProgramSpec,
    values: Values,
    population: Population | None = None,
    keep: Keep = make_anew,
) -> Program:
    """Compile the program of `spec`.

    Args:
      spec: what to compile.
      values: those of one run; only their shapes and types matter.
      population: None for a single run.
      keep: for what programs may share: a compiled `init`, and data on the devices.
    """
    started = time.perf_counter()
    dataset = spec.dataset
    capacity, eval_capacity = _capacities(spec, values, population)
    train, evaluate = _functions(spec, capacity, eval_capacity, population)
    mesh, lead = _mesh(spec, population)
    own = partial(with_sharding, sharding=mesh.own, lead=lead)  # of each member
    shapes = carry_shapes(spec, values)
    state = mesh.state(shapes)
    carry = with_sharding(shapes, state, lead)
    columns, eval_columns = with_sharding(feed.column_shapes(dataset), mesh.replicated)
    batches = with_sharding(feed.train_shapes(dataset, capacity), mesh.batches, lead)
    numbers = jax.eval_shape(lambda: values)
    number, rates = (jax.ShapeDtypeStruct(n, jnp.float32) for n in ((), (capacity,)))
    logged, one = np.zeros(capacity, bool), np.int32(0)
    trained = compiled(
        jax.jit(train, out_shardings=(state, mesh.own), donate_argnums=0),
        carry, columns, batches, own(rates), logged, one, one, own(number),
        own(numbers),
    )  # fmt: skip
    evaluated, totals = None, {}
    if dataset.evaluated:
        eval_batches = with_sharding(
            feed.eval_shapes(dataset, eval_capacity), mesh.eval_batches
        )
        totals = _eval_sums(spec, shapes)
        evaluated = compiled(
            jax.jit(evaluate, out_shardings=mesh.own),
            carry, eval_columns, eval_batches, own(totals),
        )  # fmt: skip
    if population:
        every = jax.vmap(step.init(spec.pipeline, spec.averaging))
        initial = compiled(
            jax.jit(every, out_shardings=state),
            own(numbers.key), own(number), own(numbers.hyperparameters),
        )  # fmt: skip
    else:
        initial = keep(("init", spec.key), lambda: init(spec, values))
    on_devices = ("device data", dataset, mesh)
    return Program(
        init=initial,
        train=trained,
        evaluate=evaluated,
        capacity=capacity,
        eval_capacity=eval_capacity,
        totals=jax.tree.map(lambda s: np.zeros((*lead, *s.shape), s.dtype), totals),
        mesh=mesh,
        data=lambda: keep(on_devices, lambda: feed.device_data(dataset, mesh)),
        eval_batches=feed.eval_feed(dataset, mesh, eval_capacity),
        members=population.members if population else None,
        bytes=_bytes(trained),
        compile_seconds=time.perf_counter() - started,
    )


def init(spec: ProgramSpec, values: Values) -> Callable:
    """`Program.init` of a single run, compiled.

    Args:
      spec: what to compile.
      values: those of one run; only their shapes and types matter.
    """
    shardings = spec.mesh.state(carry_shapes(spec, values))
    jitted = jax.jit(spec.init, out_shardings=shardings)
    return compiled(jitted, *init_arguments(spec, values))


def compiled(jitted: Any, *arguments: Any) -> Callable:
    """`jitted`, compiled; with debug_nans unchanged, or JAX wouldn't find the NaN."""
    if jax.config.jax_debug_nans:  # pyright: ignore[reportAttributeAccessIssue]
        return jitted
    return jitted.lower(*arguments).compile()


def start_shapes(
    spec: ProgramSpec, values: Values, population: Population | None = None
) -> Snapshot:
    """Shapes and shardings of what a call of the program takes from the one before."""
    mesh, lead = _mesh(spec, population)
    shapes = carry_shapes(spec, values)
    eval_loss = jax.ShapeDtypeStruct((), jnp.float32)
    return Snapshot(
        with_sharding(shapes, mesh.state(shapes), lead),
        with_sharding(eval_loss, mesh.own, lead),
    )


def with_sharding(shapes: Any, sharding: Any, lead: tuple[int, ...] = ()) -> Any:
    """`shapes` with leading dimensions `lead`, and one sharding or one for each."""

    def placed(x, sharding):
        shape = (*lead, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, jax.tree.broadcast(sharding, shapes))


def step_jaxpr(spec: ProgramSpec, values: Values) -> Jaxpr:
    """The jaxpr of a training step, for the rules of `runner.core.choose`."""
    return spec.train_step.trace(*_step_arguments(spec, values)).jaxpr.jaxpr


def check_traces(spec: ProgramSpec, values: Values) -> list[str]:
    """Trace a step and an evaluation, so that errors show at once.

    Returns:
      the names of the metrics that the run will have.

    Raises:
      ConfigError: the model's outputs aren't what the loss needs.
    """
    arguments = _step_arguments(spec, values)
    carry = arguments[0]
    spec.mesh.placement.check_rules(carry.state.params)
    inputs = spec.task.inputs(feed.transformed_example(spec.dataset))
    outputs = jax.eval_shape(spec.pipeline.predict, carry.state, _on_mesh(spec, inputs))
    _check_outputs(spec, outputs)
    _, row = spec.train_step.trace(*arguments).out_info
    found = jax.eval_shape(lambda s: numbers(spec.task, s), _eval_sums(spec, carry))
    # Nothing is chosen by a test split.
    evaluations = [f"{s}/{name}" for s in spec.dataset.validations for name in found]
    return [*row, *evaluations, "time/steps_per_second"]


def _check_outputs(spec: ProgramSpec, outputs: Any) -> None:
    if spec.task.output is None:
        return
    size = spec.dataset.batch_size
    found = jax.tree.map(lambda x: x.shape, outputs)
    needed = jax.tree.map(
        lambda shape: (size, *shape), spec.task.output, is_leaf=_is_shape
    )
    if found != needed:
        raise ConfigError(
            f"the model's outputs have shape {found}, but the task needs {needed} for "
            f"data={spec.dataset.name}; choose another model or task"
        )


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def _eval_sums(spec: ProgramSpec, carry: Any) -> Any:
    """Shapes of what `ProgramSpec.eval_step` returns."""
    is_example = jax.ShapeDtypeStruct((spec.dataset.batch_size,), jnp.bool_)
    batch = feed.example(spec.dataset) | {feed.IS_EXAMPLE: is_example}
    carry, batch = _on_mesh(spec, (carry, batch))
    return jax.eval_shape(spec.eval_step, carry, batch)


def carry_shapes(spec: ProgramSpec, values: Values) -> Any:
    """Shapes and dtypes of the carry, without shardings."""
    traced = spec.init.trace(*init_arguments(spec, values))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), traced.out_info
    )


def init_arguments(spec: ProgramSpec, values: Values) -> tuple:
    """Shapes of the arguments of `ProgramSpec.init`."""
    arguments = values.key, np.float32(0), values.hyperparameters
    return _on_mesh(spec, jax.eval_shape(lambda: arguments))


def _step_arguments(spec: ProgramSpec, values: Values) -> tuple:
    """Shapes of the arguments of `ProgramSpec.train_step`."""
    carry, batch = carry_shapes(spec, values), feed.example(spec.dataset)
    number, numbers = np.float32(0), jax.eval_shape(lambda: values)
    carry, batch, rate, eval_loss, numbers = _on_mesh(
        spec, (carry, batch, number, number, numbers)
    )
    # Which step it is, and whether that is logged, is the same on any mesh.
    return carry, batch, np.int32(0), rate, np.bool_(False), eval_loss, numbers


def _on_mesh(spec: ProgramSpec, shapes: Any) -> Any:
    """`shapes` as they are within the compiled program, so that JAX traces once."""
    return with_sharding(shapes, spec.mesh.replicated)


def _mesh(spec: ProgramSpec, population: Population | None) -> tuple[Mesh, tuple]:
    """The mesh of a program's arrays, and the dimension that members add to them."""
    if population is None:
        return spec.mesh, ()
    lead = (population.members,)
    return population_mesh(spec.mesh.devices, *lead), lead


def _capacities(
    spec: ProgramSpec, values: Values, population: Population | None
) -> tuple[int, int]:
    """The most steps of a training call, and the batches of an evaluation call."""
    looped = loops(step_jaxpr(spec, values), jax.default_backend())
    steps = spec.steps_per_call
    if steps is None:
        steps = feed.steps_that_fit(spec.dataset, LOOP_CAPACITY) if looped else 1
    if population:
        steps = min(steps, population.most_steps)
    evals = 1
    if looped and spec.dataset.evaluated:
        # The split that is evaluated most often fits in one call.
        first = next(iter(spec.dataset.evaluated))
        batches = len(eval_indices(spec.dataset, first)[0])
        evals = feed.steps_that_fit(spec.dataset, batches)
    return steps, evals


def _functions(
    spec: ProgramSpec, capacity: int, eval_capacity: int, population: Population | None
) -> tuple[Callable, Callable]:
    """`train` and `evaluate`, not yet compiled."""
    train_step, eval_step, axis = spec.train_step, spec.eval_step, None
    if population:  # which has a mesh of its own
        axis = "members"
        parts = spec.pipeline, spec.task, spec.dataset.transforms
        train_step = step.train_step(*parts, spec.microbatches, axis)
        eval_step = step.eval_step(*parts)
    train = step.train_call(train_step, capacity)
    evaluate = step.eval_call(eval_step, spec.task, eval_capacity)
    if population:
        # In the order of the arguments: 0 where each member has its own, None where
        # they share one.
        train = jax.vmap(train, (0, None, 0, 0, None, None, None, 0, 0), axis_name=axis)
        evaluate = jax.vmap(evaluate, (0, None, None, 0))
    return train, evaluate


def _bytes(function: Any) -> int:
    analysis = getattr(function, "memory_analysis", lambda: None)()
    if analysis is None:
        return 0
    used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return used + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes
