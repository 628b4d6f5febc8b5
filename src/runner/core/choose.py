"""Rules that decide from a program's jaxpr how its steps and members are run.

Both were measured (benchmarks/step.py, benchmarks/sweep.py) and can be overridden, by
`train.steps_per_call` and `hydra.launcher.strategy`.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# On CPU the members of a population share a step's overhead, but their parameters evict
# each other from the caches. With fewer matrix-product operations in a step than this,
# the first effect wins.
CPU_VMAP_FLOPS = 100e6


def loops(jaxpr: Jaxpr, backend: str) -> bool:
    """Whether several steps of `jaxpr` go into one call of the compiled program.

    They do, since a call costs the host more than a small model's step takes. But on
    CPU, XLA runs a convolution inside a loop 20 to 40 times slower than outside one
    (jax #12868), so there such a step is a call of its own.
    """
    return backend != "cpu" or not _has_convolution(jaxpr)


def vmaps(jaxpr: Jaxpr, backend: str) -> bool:
    """Whether members that share the step `jaxpr` run side by side, under `vmap`.

    On an accelerator they do. On CPU they do only if steps are small and contain no
    convolution: `vmap` over its kernels is about five times slower than one member
    after another.
    """
    if backend != "cpu":
        return True
    return not _has_convolution(jaxpr) and dot_flops(jaxpr) < CPU_VMAP_FLOPS


def dot_flops(jaxpr: Jaxpr) -> float:
    """The multiplications and additions of the matrix products in `jaxpr`.

    Those in a `scan` count as often as it runs, those in a `while_loop` once.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left: Any = eqn.invars[0].aval
            output: Any = eqn.outvars[0].aval
            each = math.prod(left.shape[axis] for axis in contracted)
            total += 2 * math.prod(output.shape) * each
        repeats = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        total += repeats * sum(map(dot_flops, _inner(eqn)))
    return total


def _has_convolution(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name == "conv_general_dilated"
        or any(map(_has_convolution, _inner(eqn)))
        for eqn in jaxpr.eqns
    )


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs that `eqn` calls."""
    values = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)
    for value in filter(_is_jaxpr, values):
        yield value.jaxpr if isinstance(value, ClosedJaxpr) else value


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
