"""Compiled evaluations."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.core import feed, step
from runner.core.compiling import Compiling
from runner.core.keep import Keep
from runner.core.program_spec import ProgramSpec
from runner.core.shapes import eval_sums, mesh_of, with_sharding


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


def compile_evaluation(
    spec: ProgramSpec,
    shapes: Any,
    capacity: int,
    members: int | None,
    keep: Keep,
) -> Evaluation:
    """Start to compile the evaluation of the splits of `spec`.

    Args:
      spec: what to compile.
      shapes: of the carry of one run.
      capacity: see `capacities`.
      members, keep: see `compile_program`.
    """
    dataset = spec.dataset
    mesh, lead = mesh_of(spec, members)
    carry = with_sharding(shapes, mesh.state(shapes), lead)
    columns = with_sharding(feed.column_shapes(dataset).eval, mesh.replicated)
    batches = with_sharding(feed.eval_shapes(dataset, capacity), mesh.eval_batches)
    totals = with_sharding(eval_sums(spec, shapes), mesh.own, lead)
    one = spec.eval_step
    if members:  # a population has a mesh of its own
        one = step.eval_step(spec.pipeline, spec.task, dataset.transforms)
    evaluate = step.eval_call(one, spec.task, capacity)
    if members:
        evaluate = jax.vmap(evaluate, (0, None, None, 0))
    jitted = jax.jit(evaluate, out_shardings=mesh.own)
    key = "evaluation", spec.key, members, capacity, jax.tree.structure(shapes)
    data = feed.kept_data(dataset, mesh, keep)
    return Evaluation(
        call=keep(key, lambda: Compiling(jitted, carry, columns, batches, totals)),
        capacity=capacity,
        totals=jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), totals),
        columns=lambda: data().eval,
        batches=feed.eval_feed(dataset, mesh, capacity),
    )
