"""Rules that decide from a program's jaxpr how its steps and members are run.

Both were measured (benchmarks/step.py, benchmarks/sweep.py) and can be overridden, by
`train.steps_per_call` and `hydra.launcher.strategy`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn

from runner.core.convolution import NAME, has_convolution, inner

# On CPU the members of a population share a step's overhead, but their parameters evict
# each other from the caches. With fewer matrix-product operations in a step than this,
# the first effect wins.
CPU_VMAP_FLOPS = 100e6
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


def vmaps(jaxpr: Jaxpr, backend: str) -> bool:
    """Whether members that share the step `jaxpr` run side by side, under `vmap`.

    On an accelerator they do. On CPU they do only if steps are small and contain no
    convolution: `vmap` over its kernels is about five times slower than one member
    after another.
    """
    if backend != "cpu":
        return True
    return not has_convolution(jaxpr) and flops(jaxpr) < CPU_VMAP_FLOPS


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
