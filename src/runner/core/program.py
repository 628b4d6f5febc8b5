"""The compiled program that runs share when only numbers differ between them."""

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from runner.core import feed, step
from runner.core.choose import flops, steps_per_call
from runner.core.compiling import BRIEF, Compiling, once
from runner.core.convolution import equations
from runner.core.keep import Keep, make_anew
from runner.core.mesh import Mesh, population_mesh
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline
from runner.core.probe import Probe
from runner.core.snapshot import Snapshot
from runner.core.step import Values
from runner.core.timetable import Cut, Timetable
from runner.core.warm_start import WarmStart
from runner.data.dataset import Dataset, eval_indices
from runner.errors import ConfigError
from runner.tasks.task import Task, is_shape, numbers

# Of a call's arguments: 0 where each member has its own, None where they share one.
MEMBER_AXES = 0, None, 0, 0, None, 0, 0


class ProgramSpec(NamedTuple):
    """Everything that a program is made from, except its arguments.

    Attributes:
      description: plain values that identify the program; runs with equal ones share
        it. `key` is their hash.
      init, train_step, eval_step: those of `runner.core.step`, jitted, so that each is
        traced only once.
      probe: gives more numbers of a logged step; None without `probes`. `look` is that
        of `runner.core.step` with it.
      probes: the section of the configuration, which `key` depends on too.
      steps_per_call: the most; None leaves it to the rule of `choose`.
      reference: makes the pipeline that a witness computes with.
      canonical: whether all pipelines of its model start from the same values.
      optimizer: that of its pipeline.
      warm: whether its runs start from values of their own.
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
    reference: Callable[[], Pipeline]
    canonical: bool
    optimizer: Optimizer
    warm: bool
    probe: Probe | None
    look: Callable | None
    probes: dict[str, Any]

    @property
    def key(self) -> str:
        return key_of(self.description, self.probes)


def key_of(description: dict[str, Any], probes: dict[str, Any]) -> str:
    """The name of a program: a hash of its `description` and `probes`."""
    described = description | ({"probes": probes} if probes else {})
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Evaluation(NamedTuple):
    """A compiled evaluation, and what it reads. In a population the carry, the totals
    and the numbers have a leading member axis.

    Attributes:
      call: (carry, columns, batches, totals) -> (totals, numbers) over `capacity`
        batches and those of earlier calls.
      capacity: the number of batches of a call.
      totals: zeros that the first call starts from.
      columns: returns the columns on the devices.
      batches: returns one pass over the split of a name.
    """

    call: Compiling
    capacity: int
    totals: Any
    columns: Callable[[], dict[str, jax.Array]]
    batches: Callable[[str], Iterable[dict]]


@dataclass(frozen=True)
class Program:
    """Compiled functions. In a population, per-member arguments and results (carry,
    batches, learning_rates, ...) have a leading member axis.

    Attributes:
      init: (key, learning_rate, hyperparameters, start) -> carry.
      calls: by their number of blocks (see `Cut`; 0: a single step), functions (carry,
        columns, batches, learning_rates, first_step, eval_loss, values) -> (carry,
        rows), each compiled in the background once it is wanted. `rows` has an array
        for each number, [steps], or [blocks] for the norms.
      made: those that were wanted so far.
      looped: whether each call is a loop, also over a single step.
      evaluation: of its carry; None without a split to evaluate.
      data: returns the columns on the devices, which both read.
      members: of a population; None for a single run.
      flops: of a step of one run; see `choose.flops`.
      jumps: whether an update follows the signs of numbers, which rounding may change.
    """

    init: Compiling
    calls: Callable[[int], Compiling]
    made: dict[int, Compiling]
    cut: Cut
    looped: bool
    evaluation: Evaluation | None
    mesh: Mesh
    data: Callable[[], feed.DeviceData]
    members: int | None
    flops: float
    jumps: bool

    @property
    def longest(self) -> Compiling:
        """The call that takes the most steps."""
        return self.calls(self.cut.blocks)

    @property
    def bytes(self) -> int:
        """Memory of a training call on each device, as far as XLA reports it."""
        analysis = getattr(self.longest.result(), "memory_analysis", lambda: None)()
        if analysis is None:
            return 0
        used = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
        return used + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes

    def compile_seconds(self) -> float:
        """The time that runs have waited for these since this was called last."""
        made = [self.init, *self.made.values()]
        made += [self.evaluation.call] if self.evaluation else []
        return sum(one.waited() for one in made)


def compile_program(
    spec: ProgramSpec,
    values: Values,
    timetable: Timetable,
    members: int | None = None,
    keep: Keep = make_anew,
) -> Program:
    """Start to compile the program of `spec`.

    Args:
      spec: what to compile.
      values: those of one run; only their shapes and types matter.
      timetable: decides the lengths of its calls.
      members: of a population; None for a single run.
      keep: for what programs may share: data on the devices, and what is compiled.
    """
    dataset = spec.dataset
    jaxpr = step_jaxpr(spec, values)
    most, eval_capacity = capacities(spec, jaxpr, members)
    cut = timetable.cut(most)
    mesh, lead = _mesh(spec, members)
    own = partial(with_sharding, sharding=mesh.own, lead=lead)  # of each member
    shapes = carry_shapes(spec, values)
    state = mesh.state(shapes)
    carry = with_sharding(shapes, state, lead)
    columns = with_sharding(feed.column_shapes(dataset).train, mesh.replicated)
    numbers = jax.eval_shape(lambda: values)
    number, one = jax.ShapeDtypeStruct((), jnp.float32), np.int32(0)

    initialize, train_step, _, look = _functions(spec, members)
    looking = look and (look, timetable.is_logged)

    def kept(*name: Hashable, make: Callable[[], Compiling]) -> Compiling:
        kind, *rest = name
        return keep((kind, spec.key, members, *rest), make)

    def call(blocks: int) -> Compiling:
        block = cut.block if blocks else 1
        count = max(1, blocks) * block
        batches = with_sharding(feed.train_shapes(dataset, count), mesh.batches, lead)
        rates = jax.ShapeDtypeStruct((count,), jnp.float32)
        function = step.train_call(train_step, block, max(1, blocks), most > 1, looking)
        if members:
            function = jax.vmap(function, MEMBER_AXES)
        jitted = jax.jit(function, out_shardings=(state, mesh.own), donate_argnums=0)
        logged = looking and timetable
        return kept("call", block, blocks, most > 1, logged, make=lambda: Compiling(
            jitted,
            carry, columns, batches, own(rates), one, own(number), own(numbers),
        ))  # fmt: skip

    made: dict[int, Compiling] = {}

    def calls(blocks: int) -> Compiling:
        if blocks not in made:
            made[blocks] = call(blocks)
        return made[blocks]

    if members:
        initial = kept("init", make=lambda: Compiling(
            once(jax.vmap(initialize), BRIEF, out_shardings=state),
            own(numbers.key), own(number), own(numbers.hyperparameters),
            *own(start_of(spec, values)),
        ))  # fmt: skip
    else:
        initial = keep(("init", spec.key), lambda: init(spec, values))
    calls(cut.after(0, timetable.next_stop(0)))  # the first to be used
    calls(cut.blocks)

    evaluation = None
    if dataset.evaluated:
        evaluation = compile_evaluation(spec, shapes, eval_capacity, members, keep)
    return Program(
        init=initial,
        calls=calls,
        made=made,
        cut=cut,
        looped=most > 1,
        evaluation=evaluation,
        mesh=mesh,
        data=_data(dataset, mesh, keep),
        members=members,
        flops=flops(jaxpr),
        jumps=_jumps(jaxpr, shapes.state.params),
    )


def compile_evaluation(
    spec: ProgramSpec,
    shapes: Any,
    capacity: int,
    members: int | None = None,
    keep: Keep = make_anew,
) -> Evaluation:
    """Start to compile the evaluation of the splits of `spec`.

    Args:
      spec: what to compile.
      shapes: of the carry of one run.
      capacity: see `capacities`.
      members, keep: see `compile_program`.
    """
    dataset = spec.dataset
    mesh, lead = _mesh(spec, members)
    carry = with_sharding(shapes, mesh.state(shapes), lead)
    columns = with_sharding(feed.column_shapes(dataset).eval, mesh.replicated)
    batches = with_sharding(feed.eval_shapes(dataset, capacity), mesh.eval_batches)
    totals = with_sharding(_eval_sums(spec, shapes), mesh.own, lead)
    evaluate = step.eval_call(_functions(spec, members)[2], spec.task, capacity)
    if members:
        evaluate = jax.vmap(evaluate, (0, None, None, 0))
    jitted = jax.jit(evaluate, out_shardings=mesh.own)
    key = "evaluation", spec.key, members, capacity, jax.tree.structure(shapes)
    data = _data(dataset, mesh, keep)
    return Evaluation(
        call=keep(key, lambda: Compiling(jitted, carry, columns, batches, totals)),
        capacity=capacity,
        totals=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), totals),
        columns=lambda: data().eval,
        batches=feed.eval_feed(dataset, mesh, capacity),
    )


def _data(dataset: Dataset, mesh: Mesh, keep: Keep) -> Callable[[], feed.DeviceData]:
    key = "device data", dataset, mesh
    return lambda: keep(key, lambda: feed.device_data(dataset, mesh))


def init(spec: ProgramSpec, values: Values) -> Compiling:
    """`Program.init` of a single run.

    Args:
      spec: what to compile.
      values: those of one run; only their shapes and types matter.
    """
    shardings = spec.mesh.state(carry_shapes(spec, values))
    jitted = once(spec.init, BRIEF, out_shardings=shardings)
    return Compiling(jitted, *init_arguments(spec, values))


def start_shapes(
    spec: ProgramSpec, values: Values, members: int | None = None
) -> Snapshot:
    """Shapes and shardings of what a call of the program takes from the one before."""
    mesh, lead = _mesh(spec, members)
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
    if spec.look is not None:
        state, values = carry.state, arguments[-1]
        jax.eval_shape(spec.look, state, state.params, *arguments[1:3], values)
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
        lambda shape: (size, *shape), spec.task.output, is_leaf=is_shape
    )
    if found != needed:
        raise ConfigError(
            f"the model's outputs have shape {found}, but the task needs {needed} for "
            f"data={spec.dataset.name}; choose another model or task"
        )


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
    start = start_of(spec, values)  # split as the state will be
    start = with_sharding(start, spec.mesh.state(start))
    return *_on_mesh(spec, jax.eval_shape(lambda: arguments)), *start


def start_of(spec: ProgramSpec, values: Values) -> tuple[WarmStart, ...]:
    """Shapes of a run's `start`; none if its program takes none."""
    if not spec.warm:
        return ()
    rate, numbers = np.float32(0), values.hyperparameters
    state = jax.eval_shape(spec.pipeline.init, values.key, rate, numbers)
    state = state._replace(opt_state=())
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    return (WarmStart(state, jax.tree.map(lambda x: flag, state)),)


def _step_arguments(spec: ProgramSpec, values: Values) -> tuple:
    """Shapes of the arguments of `ProgramSpec.train_step`."""
    carry, batch = carry_shapes(spec, values), feed.example(spec.dataset)
    number, numbers = np.float32(0), jax.eval_shape(lambda: values)
    carry, batch, rate, eval_loss, numbers = _on_mesh(
        spec, (carry, batch, number, number, numbers)
    )
    # Which step it is is the same on any mesh.
    return carry, batch, np.int32(0), rate, eval_loss, numbers


def _on_mesh(spec: ProgramSpec, shapes: Any) -> Any:
    """`shapes` as they are within the compiled program, so that JAX traces once."""
    return with_sharding(shapes, spec.mesh.replicated)


def _mesh(spec: ProgramSpec, members: int | None) -> tuple[Mesh, tuple]:
    """The mesh of a program's arrays, and the dimension that members add to them."""
    if members is None:
        return spec.mesh, ()
    return population_mesh(spec.mesh.devices, members), (members,)


def capacities(spec: ProgramSpec, jaxpr: Jaxpr, members: int | None) -> tuple[int, int]:
    """The most steps of a training call, and the batches of an evaluation call."""
    steps = spec.steps_per_call
    fitting = steps_per_call(jaxpr, jax.default_backend(), members or 1)
    if steps is None:
        steps = feed.steps_that_fit(spec.dataset, fitting)
    evals = 1
    if fitting > 1 and spec.dataset.evaluated:
        # The split that is evaluated most often fits in one call.
        first = next(iter(spec.dataset.evaluated))
        batches = len(eval_indices(spec.dataset, first)[0])
        evals = feed.steps_that_fit(spec.dataset, batches)
    return steps, evals


def _jumps(step: Jaxpr, params: Any) -> bool:
    largest = max((x.shape for x in jax.tree.leaves(params)), key=math.prod)
    signs = (eqn for eqn in equations(step) if eqn.primitive.name == "sign")
    operands: Any = [eqn.invars[0].aval for eqn in signs]
    return any(operand.shape == largest for operand in operands)


def _functions(
    spec: ProgramSpec, members: int | None
) -> tuple[Callable, Callable, Callable, Callable | None]:
    """The initial state, the training and the evaluation step, and a look at one."""
    if members is None:
        return spec.init, spec.train_step, spec.eval_step, spec.look
    # A population has a mesh of its own.
    parts = spec.pipeline, spec.task, spec.dataset.transforms
    return (
        step.init(spec.pipeline, spec.averaging, spec.optimizer),
        step.train_step(*parts, spec.microbatches),
        step.eval_step(*parts),
        spec.probe and step.look(parts[0], parts[2], spec.microbatches, spec.probe),
    )
