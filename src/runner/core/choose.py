"""Rules that decide from a program's jaxpr how its steps and members are run.

Both were measured (benchmarks/step.py, benchmarks/packing.py) and can be overridden, by
`train.steps_per_call`, and by `hydra.launcher.strategy` and `max_members`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn

from runner.core.convolution import NAME, has_convolution, inner
from runner.core.measured import MEASURED, Measured

# Sizes of a population whose steps take this many times the fastest one's are equally
# good; the largest of them needs the fewest calls.
NEAR = 1.05
# Each member has an open W&B run, with a thread, a queue and a file.
MOST_MEMBERS = 256
# A call of the loop costs the host about as much as ten steps of a small model.
MOST_STEPS = 1024
CALL_SECONDS = 0.2


class Speed(NamedTuple):
    """Orders of magnitude by which a step's time is estimated from its jaxpr.

    Attributes:
      flops: operations of matrix products and convolutions a second.
      operations: of the jaxpr's own operations, the number a second.
    """

    flops: float
    operations: float


CPU, ACCELERATOR = Speed(5e10, 2e6), Speed(2e13, 3e5)


def steps_per_call(jaxpr: Jaxpr, backend: str, members: int) -> int:
    """The most steps of `jaxpr` that go into one call of the compiled program.

    Several do, since a call costs the host more than a small model's step takes; but
    only so many that a run can soon be interrupted and shows its progress. The time is
    estimated, not measured, so that the calls of a run are always the same.

    On CPU, XLA runs a convolution inside a loop 20 to 40 times slower than outside one
    (jax #12868), so there such a step is a call of its own.
    """
    if backend == "cpu" and has_convolution(jaxpr):
        return 1
    speed = CPU if backend == "cpu" else ACCELERATOR
    seconds = members * flops(jaxpr) / speed.flops + _count(jaxpr) / speed.operations
    return int(min(MOST_STEPS, max(1, CALL_SECONDS / seconds)))


def side_by_side(jaxpr: Jaxpr, platform: str, kind: str) -> int:
    """How many members that share the step `jaxpr` train side by side, under `vmap`.

    1: they train one after another. So do those with XLA's own convolutions on a device
    like which none was measured: on an H100, a population of them was as slow. Others
    train side by side there.

    Args:
      jaxpr: a member's step.
      platform, kind: of the device; one that wasn't measured is taken for another of
        its platform.
    """
    convolves = has_convolution(jaxpr)
    rows = [m for m in MEASURED if (m.platform, m.convolves) == (platform, convolves)]
    rows = [m for m in rows if m.kind == kind] or rows
    if not rows:
        return 1 if convolves else MOST_MEMBERS
    size = math.log(max(1, flops(jaxpr)))
    return fastest(min(rows, key=lambda m: abs(math.log(m.flops) - size)))


def fastest(row: Measured) -> int:
    """The largest size of a population that is NEAR the fastest one."""
    limit = NEAR * min(row.microseconds.values())
    return max(n for n, time in row.microseconds.items() if time <= limit)


def flops(jaxpr: Jaxpr) -> float:
    """The multiplications and additions of matrix products and convolutions in `jaxpr`.

    Those in a `scan` count as often as it runs, those in a `while_loop` once.
    """
    return _summed(jaxpr, _flops)


def _count(jaxpr: Jaxpr) -> float:
    """The operations in `jaxpr`, counted like `flops`."""
    return _summed(jaxpr, lambda eqn: 1)


def _summed(jaxpr: Jaxpr, of: Callable[[JaxprEqn], float]) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += of(eqn)
        total += repeats * sum(_summed(called, of) for called in inner(eqn))
    return total


def _flops(eqn: JaxprEqn) -> float:
    name = eqn.primitive.name
    if name not in ("dot_general", NAME):
        return 0.0
    left: Any = eqn.invars[0].aval
    right: Any = eqn.invars[1].aval
    each: float
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        each = math.prod(left.shape[axis] for axis in contracted)
    else:
        out_features = eqn.params["dimension_numbers"].rhs_spec[0]
        each = math.prod(right.shape) / right.shape[out_features]
    output: Any = eqn.outvars[0].aval
    return 2 * math.prod(output.shape) * each
