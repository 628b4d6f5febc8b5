"""Times of a member's step in several programs, measured on this device."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from runner.core.program import Program
from runner.core.run import Host, Run, Wanted
from runner.core.train import train
from runner.errors import TrainingStopped

ROUNDS = 3
SECONDS = 0.3  # the least that a way takes in each of them

Way = TypeVar("Way")


def microseconds(
    ways: Mapping[Way, tuple[Program, Run]],
    rounds: int = ROUNDS,
    agree: Callable[[str, Any], Any] = lambda name, value: value,
) -> dict[Way, float]:
    """The time of a member's step, each way: the shortest of all rounds.

    It has its share of the evaluations and of the host's work. Ways take turns, so that
    other load on the machine affects all of them. One that doesn't fit in memory takes
    forever.

    Args:
      ways: compiled programs, and a run of each.
      rounds: how often each has its turn, after two that aren't counted.
      agree: see `Host.agree`; processes of one run take equally many steps.
    """
    best = dict.fromkeys(ways, math.inf)
    steps = dict.fromkeys(ways, 1)
    for turn in range(-2, rounds):
        for number, (way, (program, run)) in enumerate(ways.items()):
            if not steps[way]:
                continue
            try:
                each = _seconds(program, run, steps[way])
            except (jax.errors.JaxRuntimeError, TrainingStopped):  # out of memory
                steps[way] = 0
                continue
            if turn == -1:
                needed = math.ceil(SECONDS / each)
                steps[way] = agree(f"steps of way {number}", needed)
            elif turn >= 0:
                micros = 1e6 * each / (program.members or 1)
                best[way] = min(best[way], micros)
    return {way: float(f"{micros:.4g}") for way, micros in best.items()}


class _Enough(Exception):
    """Ends training once a measurement has had its steps."""


def _seconds(program: Program, run: Run, steps: int) -> float:
    """The time of a step, in at least as many: of several runs, if one is shorter."""
    settings = dataclasses.replace(run.settings, on_nan="continue")
    runs = [run._replace(settings=settings)] * (program.members or 1)
    before = here = 0  # steps of earlier runs, and of this one

    def wants(step: int, **when: bool) -> Wanted:
        nonlocal here
        here = step
        return "no"

    def stopping() -> BaseException | None:
        return _Enough() if before + here >= steps else None

    host = Host(lambda index, row: None, wants=wants, stopping=stopping)
    started = time.perf_counter()
    try:
        while before < steps:
            for _, error in train(program, runs, host):
                if error:
                    raise error
            before, here = before + here, 0
    except _Enough:
        pass
    return (time.perf_counter() - started) / (before + here)
