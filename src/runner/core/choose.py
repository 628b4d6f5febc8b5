"""Rules that decide from a program's jaxpr how its steps and members are run.

They were measured (benchmarks/step.py, benchmarks/packing.py) and can be overridden, by
`train.steps_per_call`, by `train.convolution`, and by `hydra.launcher.strategy` and
`max_members`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

from runner.core.convolution import NAME, has_convolution, inner
from runner.core.measured import MEASURED, Measured

# Convolutions as XLA's own, or as `runner.core.convolution` has them.
FORMS = ("native", "patches")
# By form, and by the members side by side (1: one after another), the microseconds of a
# member's step.
Times = Mapping[str, Mapping[int, float]]
# Ways whose steps take this many times the fastest one's are equally good; the largest
# population needs the fewest calls.
NEAR = 1.05
# Each member has an open W&B run, with a thread, a queue and a file.
MOST_MEMBERS = 256
# A call of the loop costs the host about as much as ten steps of a small model.
MOST_STEPS = 1024
CALL_SECONDS = 1.0


class Speed(NamedTuple):
    """Orders of magnitude by which a step's time is estimated from its jaxpr.

    Attributes:
      flops: operations of matrix products and convolutions a second.
      operations: of the jaxpr's own operations, the number a second.
    """

    flops: float
    operations: float


CPU, ACCELERATOR = Speed(1e11, 2e6), Speed(2e13, 3e5)


def steps_per_call(jaxpr: Jaxpr, backend: str, members: int) -> int:
    """The most steps of `jaxpr` that go into one call of the compiled program.

    Several do, since a call costs the host more than a small model's step takes, and
    on CPU, it asks the operating system for its memory: for a transformer of a million
    parameters, that takes as long as half a step. But only so many that a run can soon
    be interrupted and shows its progress. The time is estimated, not measured, so that
    the calls of a run are always the same.

    On CPU, XLA runs a convolution inside a loop 20 to 40 times slower than outside one
    (jax #12868), so there such a step is a call of its own.
    """
    if backend == "cpu" and has_convolution(jaxpr):
        return 1
    speed = CPU if backend == "cpu" else ACCELERATOR
    seconds = members * flops(jaxpr) / speed.flops + _count(jaxpr) / speed.operations
    return int(min(MOST_STEPS, max(1, CALL_SECONDS / seconds)))


class Choice(NamedTuple):
    """How runs of one program are trained, where it decides how they are rounded.

    Attributes:
      convolution: one of FORMS.
      members: the most that train side by side, under `vmap`; 1: one after another.
      by: what it follows from: the `configuration`, the `table` or a `measurement`.
      microseconds: the measured times; none on a platform that isn't in the table.
    """

    convolution: str
    members: int
    by: str
    microseconds: Times


def given(convolution: str) -> Choice:
    """Where there is nothing to choose."""
    return Choice(convolution, 1, "configuration", {})


def nearest(jaxpr: Jaxpr, platform: str, kind: str) -> Measured | None:
    """The measured program most like one whose step is `jaxpr`.

    Args:
      jaxpr: a member's step, with XLA's own convolutions.
      platform, kind: of the device; one that wasn't measured is taken for another of
        its platform.
    """
    convolves = has_convolution(jaxpr)
    rows = [m for m in MEASURED if (m.platform, m.convolves) == (platform, convolves)]
    rows = [m for m in rows if m.kind == kind] or rows
    size = math.log(max(1, flops(jaxpr)))
    return min(rows, key=lambda m: abs(math.log(m.flops) - size), default=None)


def by_table(
    jaxpr: Jaxpr, platform: str, kind: str, forms: Sequence[str], most: int
) -> Choice:
    """The choice between `forms` for up to `most` runs like those of `nearest`.

    On a platform of which nothing was measured the first form is taken. Members train
    side by side there, but not with XLA's own convolutions: on an H100, a population of
    those was as slow as one member after another.
    """
    row = nearest(jaxpr, platform, kind)
    if row is None:
        alone = has_convolution(jaxpr) and forms[0] == "native"
        return Choice(forms[0], 1 if alone else min(most, MOST_MEMBERS), "table", {})
    return best(row.microseconds, forms, most, "table")


def best(times: Times, forms: Sequence[str], most: int, by: str) -> Choice:
    """The fastest way for up to `most` members, or the largest of those NEAR to it.

    Args:
      times: of the ways that fit in memory; those of a program without convolutions
        are `native`.
      forms: those that may be chosen; among equals the first.
      most: the members that there are.
      by: see `Choice`.
    """
    ways = {
        (form, size): time
        for form in forms
        for size, time in sizes(times.get(form, times.get("native", {})), most).items()
    }
    if not ways:  # none fitted, so that the run will say it
        return Choice(forms[0], 1, by, times)
    limit = NEAR * min(ways.values())
    near = [way for way, time in ways.items() if time <= limit]
    largest = max(size for _, size in near)
    form = next(form for form, size in near if size == largest)
    return Choice(form, largest, by, times)


def sizes(times: Mapping[int, float], most: int) -> dict[int, float]:
    """The times of populations of up to `most` members, `most` among them.

    Its own lies between those of its neighbours, by the logarithms of their sizes.
    """
    found = {size: time for size, time in times.items() if size <= most}
    logs = [math.log(size) for size in times]
    if most < max(times, default=0):
        found[most] = float(np.interp(math.log(most), logs, list(times.values())))
    return found


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
