"""The compiled program that runs share when only numbers differ between them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from runner.core import feed, step
from runner.core.choose import flops, steps_per_call
from runner.core.compiling import BRIEF, Compiling, once
from runner.core.convolution import equations
from runner.core.evaluation import Evaluation, compile_evaluation
from runner.core.keep import Keep
from runner.core.mesh import Mesh
from runner.core.program_spec import ProgramSpec
from runner.core.shapes import (
    carry_shapes,
    init_arguments,
    mesh_of,
    start_of,
    step_jaxpr,
    with_sharding,
)
from runner.core.step import Values
from runner.core.timetable import Cut, Timetable
from runner.data.batches import eval_indices

# Of a call's arguments: 0 where each member has its own, None where they share one.
MEMBER_AXES = 0, None, 0, 0, None, 0, 0


@dataclass(frozen=True)
class Program:
    """Compiled functions. In a population, per-member arguments and results (carry,
    batches, learning_rates, ...) have a leading member axis.

    Attributes:
      init: (key, learning_rate, hyperparameters, start) -> carry.
      calls: by their number of blocks (see `Cut`; 0: a single step), functions (carry,
        columns, batches, learning_rates, first_step, eval_loss, values) -> (carry,
        rows), each compiled in the background once it is wanted. `rows` has an array
        for each number, [steps], or [blocks] for the norms, and those of probes joined.
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

    def own(self, tree: Any, index: int) -> Any:
        """The part of the run of an index, of what all runs have together."""
        if self.members is None:
            return tree
        return jax.tree.map(lambda x: x[index], tree)

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
    members: int | None,
    keep: Keep,
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
    mesh, lead = mesh_of(spec, members)
    own = partial(with_sharding, sharding=mesh.own, lead=lead)  # of each member
    shapes = carry_shapes(spec, values)
    state = mesh.state(shapes)
    carry = with_sharding(shapes, state, lead)
    columns = with_sharding(feed.column_shapes(dataset).train, mesh.replicated)
    numbers = jax.eval_shape(lambda: values)
    number, one = jax.ShapeDtypeStruct((), jnp.float32), np.int32(0)

    initialize, train_step = _functions(spec, members)
    looking = spec.probe and (spec.probe, timetable.is_logged)

    def call(blocks: int) -> Compiling:
        block = cut.block if blocks else 1
        count = max(1, blocks) * block
        batches = with_sharding(feed.train_shapes(dataset, count), mesh.batches, lead)
        rates = jax.ShapeDtypeStruct((count,), jnp.float32)
        function = step.train_call(
            train_step, block, max(1, blocks), most > 1, mesh.devices, looking
        )
        if members:
            function = jax.vmap(function, MEMBER_AXES)
        jitted = jax.jit(function, out_shardings=(state, mesh.own), donate_argnums=0)
        logged = looking and timetable
        key = "call", spec.key, members, block, blocks, most > 1, logged
        return keep(key, lambda: Compiling(
            jitted,
            carry, columns, batches, own(rates), one, own(number), own(numbers),
        ))  # fmt: skip

    made: dict[int, Compiling] = {}

    def calls(blocks: int) -> Compiling:
        if blocks not in made:
            made[blocks] = call(blocks)
        return made[blocks]

    if members:
        initial = keep(("init", spec.key, members), lambda: Compiling(
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
        data=feed.kept_data(dataset, mesh, keep),
        members=members,
        flops=flops(jaxpr),
        jumps=_jumps(jaxpr, shapes.state.params),
    )


def init(spec: ProgramSpec, values: Values) -> Compiling:
    """`Program.init` of a single run.

    Args:
      spec: what to compile.
      values: those of one run; only their shapes and types matter.
    """
    shardings = spec.mesh.state(carry_shapes(spec, values))
    jitted = once(spec.init, BRIEF, out_shardings=shardings)
    return Compiling(jitted, *init_arguments(spec, values))


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


def _functions(
    spec: ProgramSpec, members: int | None
) -> tuple[Callable, step.TrainStep]:
    """The initial state, and the training step."""
    if members is None:
        return spec.init, spec.train_step
    # A population has a mesh of its own.
    parts = spec.pipeline, spec.task, spec.dataset.transforms
    return (
        step.init(spec.pipeline, spec.averaging, spec.optimizer),
        step.train_step(*parts, spec.microbatches),
    )


def _jumps(step: Jaxpr, params: Any) -> bool:
    largest = max((x.shape for x in jax.tree.leaves(params)), key=math.prod)
    signs = (eqn for eqn in equations(step) if eqn.primitive.name == "sign")
    operands: Any = [eqn.invars[0].aval for eqn in signs]
    return any(operand.shape == largest for operand in operands)
