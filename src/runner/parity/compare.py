"""Runs of one configuration in every framework that its model has a form for."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from hydra import compose

from runner.core.run import Run
from runner.errors import ConfigError
from runner.job import determinism
from runner.job.build import build
from runner.job.session import Session
from runner.models.model import MissingForm
from runner.parity.steps import Difference, differences, jitted, tolerance
from runner.record import compiled

# Those that the model has a form for; the others are compared with the first of them.
FRAMEWORKS = ("jax", "linen", "nnx")
PLATEAU = "reduce_on_plateau"


class Compared(NamedTuple):
    """The frameworks with one schedule.

    Attributes:
      schedule: its name; empty for the one that the overrides choose.
      first: the framework that the others are compared with.
      differences: of the others.
      tolerance: what rounding may make of one step.
    """

    schedule: str
    first: str
    differences: dict[str, Difference]
    tolerance: float


def compare(
    overrides: Sequence[str], schedule_names: Iterable[str], steps: int
) -> Iterator[Compared]:
    """For each schedule, how far the frameworks are from the first.

    Schedules differ in their learning rates only, so all but the plateau's share what
    is built and compiled.

    Raises:
      ConfigError: the model has a form for only one of them, or their states differ.
    """
    shared: dict[tuple[str, bool], tuple[Run, Any] | None] = {}
    for name in schedule_names:
        chosen = [*overrides, f"schedule={name}"] if name else list(overrides)
        plateau, rates = name == PLATEAU, None
        built: dict[str, tuple[Run, Any]] = {}
        for framework in FRAMEWORKS:
            key = framework, plateau
            if key not in shared or rates is None:
                given = [*chosen, f"framework={framework}"]
                if built:  # all with the same form of convolutions
                    run = next(iter(built.values()))[0]
                    given.append(f"train.convolution={run.choice.convolution}")
                run = _built(given, steps)
                shared.setdefault(key, run and (run, jitted(run)))
                rates = run.learning_rates if run and rates is None else rates
            if (one := shared[key]) and rates is not None:
                built[framework] = one[0]._replace(learning_rates=rates), one[1]
        first, *others = built
        if not others:
            raise ConfigError(
                f"this model has one form, {first}, and so there is nothing to compare"
            )
        precision = built[first][0].config["precision"]
        allowed = tolerance(precision, jax.default_backend())
        yield Compared(name, first, differences(built, steps), allowed)


def _built(overrides: Sequence[str], steps: int) -> Run | None:
    """The run, or None if its model can't run in its framework."""
    cfg = compose(
        "config",
        ["train.epochs=null", f"train.steps={steps}", "verify=false", *overrides],
    )
    determinism.set_up(cfg.deterministic)
    compiled.set_up(cfg.compilation_cache)
    try:
        return build(cfg, Session()).run
    except MissingForm:
        return None
