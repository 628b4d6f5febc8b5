"""The compiled program that runs share when only numbers differ between them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from runner.core import call, feed, step
from runner.core.choose import loops
from runner.core.mesh import Mesh, population_mesh
from runner.core.static import Static, carry_shapes, init_arguments, step_jaxpr
from runner.core.step import Values
from runner.data.dataset import eval_indices
from runner.job.checkpoint import Snapshot
from runner.record.program_cache import Entry

# One call of the loop costs the host about as much as ten steps of a small model.
LOOP_CAPACITY = 256


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
_used: set[tuple[str, Population | None]] = set()


def program(
    static: Static,
    values: Values,
    population: Population | None = None,
    *,
    ahead: bool = False,
) -> Program:
    """The compiled program of `static`, made once a process.

    Args:
      static: what it is made from.
      values: of one run; only their shapes and types matter.
      population: None for one run alone.
      ahead: whether this is before its first use, to which its time is counted.
    """
    name = static.key, population
    made = _programs.get(name) or _found_or_compiled(static, values, population)
    made = _programs.setdefault(name, made)
    if ahead:
        return made
    if name in _used:
        return made._replace(compile_seconds=0.0)
    _used.add(name)
    return made


def _found_or_compiled(
    static: Static, values: Values, population: Population | None
) -> Program:
    """The program, from an earlier process if it is there; else kept for the next."""
    started = time.perf_counter()
    mesh, _ = _mesh(static, population)
    name = f"{static.key}-{'x'.join(map(str, population or ['alone']))}"
    entry = Entry(name, jax.devices()[: mesh.devices])
    if entry.is_new:
        made = _compile(static, values, population, entry)
        entry.facts["program"] = made.capacity, made.eval_capacity, made.totals
        entry.store()
    else:
        train, evaluate = entry.found("train"), entry.found("evaluate")
        initial = entry.found("init") if population else init(static, values)
        capacity, eval_capacity, totals = entry.facts["program"]
        made = Program(
            initial, train, evaluate, capacity, eval_capacity, totals, mesh,
            _bytes(train), 0.0,
        )  # fmt: skip
    return made._replace(compile_seconds=time.perf_counter() - started)


def init(static: Static, values: Values) -> Callable:
    """`Program.init` of a run alone, made once a process.

    Args:
      static: what it is made from.
      values: of one run; only their shapes and types matter.
    """
    if not static.entry.is_new:
        return static.entry.found("init")
    mesh = static.mesh
    arguments = jax.eval_shape(lambda: init_arguments(values))
    places = mesh.state(carry_shapes(static, values))
    jitted = jax.jit(static.init, out_shardings=places)
    return static.entry.function("init", jitted, *_placed(arguments, mesh.replicated))


def start_shapes(
    static: Static, values: Values, population: Population | None = None
) -> Snapshot:
    """What a call of the program takes of those before it: shapes and shardings."""
    mesh, lead = _mesh(static, population)
    shapes = carry_shapes(static, values)
    news = jax.ShapeDtypeStruct((), jnp.float32)
    return Snapshot(
        _placed(shapes, mesh.state(shapes), lead), _placed(news, mesh.own, lead)
    )


def _mesh(static: Static, population: Population | None) -> tuple[Mesh, tuple]:
    """Where a program's arrays are, and the dimension that members add to them."""
    if population is None:
        return static.mesh, ()
    lead = (population.members,)
    return population_mesh(static.mesh.devices, *lead), lead


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


def _compile(
    static: Static, values: Values, population: Population | None, entry: Entry
) -> Program:
    dataset = static.dataset
    capacity, eval_capacity = _capacities(static, values, population)
    train, evaluate = _functions(static, capacity, eval_capacity, population)
    mesh, lead = _mesh(static, population)

    def own(tree):  # of each member
        return _placed(tree, mesh.own, lead)

    def ready(name, function, places, *arguments, **options):
        jitted = jax.jit(function, out_shardings=places, **options)
        return entry.function(name, jitted, *arguments)

    shapes = carry_shapes(static, values)
    state = mesh.state(shapes)
    carry = _placed(shapes, state, lead)
    columns, eval_columns = (
        _placed(feed.column_shapes(dataset, split), mesh.replicated)
        for split in (dataset.train, dataset.eval)
    )
    batches = _placed(feed.train_shapes(dataset, capacity), mesh.batches, lead)
    eval_shapes = feed.eval_shapes(dataset, eval_capacity)
    eval_batches = _placed(eval_shapes, mesh.eval_batches)
    totals = _totals(static, shapes, eval_columns, eval_batches)
    numbers = jax.eval_shape(lambda: values)
    number, rates = (jax.ShapeDtypeStruct(n, jnp.float32) for n in ((), (capacity,)))
    logged, one = np.zeros(capacity, bool), np.int32(0)
    trained = ready(
        "train", train, (state, mesh.own), carry, columns, batches, own(rates), logged,
        one, one, own(number), own(numbers), donate_argnums=0,
    )  # fmt: skip
    arguments = carry, eval_columns, eval_batches, own(totals)
    evaluated = ready("evaluate", evaluate, mesh.own, *arguments)
    if population:
        every = jax.vmap(step.init(static.pipeline, static.averaging))
        arguments = own(numbers.key), own(number), own(numbers.hyperparameters)
        initial = ready("init", every, state, *arguments)
    else:
        initial = init(static, values)
    return Program(
        initial,
        trained,
        evaluated,
        capacity,
        eval_capacity,
        {k: np.zeros((*lead, *s.shape), s.dtype) for k, s in totals.items()},
        mesh,
        _bytes(trained),
        0.0,
    )


def _functions(
    static: Static, capacity: int, eval_capacity: int, population: Population | None
) -> tuple[Callable, Callable]:
    """`train` and `evaluate`, not yet compiled."""
    train_step, eval_step, axis = static.train_step, static.eval_step, None
    if population:  # which has a mesh of its own
        axis = "members"
        train_step = step.train_step(static.pipeline, static.microbatches, axis)
        eval_step = step.eval_step(static.pipeline, static.loss)
    train = call.train_call(train_step, static.dataset, capacity)
    evaluate = call.eval_call(eval_step, static.dataset, eval_capacity)
    if population:
        # In the order of their arguments: 0 what each member has of its own, None what
        # they share.
        train = jax.vmap(train, (0, None, 0, 0, None, None, None, 0, 0), axis_name=axis)
        evaluate = jax.vmap(evaluate, (0, None, None, 0))
    return train, evaluate


def _bytes(function: Any) -> int:
    analysis = getattr(function, "memory_analysis", lambda: None)()
    if analysis is None:
        return 0
    used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return used + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes


def _placed(shapes: Any, shardings: Any, lead: tuple[int, ...] = ()) -> Any:
    """`shapes` after `lead`, where `shardings`, one or one for each, puts them."""

    def placed(x, sharding):
        shape = (*lead, *x.shape)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, jax.tree.broadcast(shardings, shapes))


def _totals(static: Static, carry, columns, batches) -> dict[str, Any]:
    def sums(carry, columns, batches):
        batch = feed.batch_at(static.dataset, columns, batches, 0)
        return static.eval_step(carry, batch)

    return jax.eval_shape(sums, carry, columns, batches)
