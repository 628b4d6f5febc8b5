"""Check that a pipeline trains as the configuration says, before it does.

flax #4087 was a mix-up of optimizers that everybody took for a difference between
frameworks. So the live pipeline takes a trajectory with a toy model beside a second one
that is written as plainly as JAX allows: see `runner.checks.trajectory`. It does so in
the run's own precision, where a step may do anything that its inputs ask for, and in
float64, where rounding doesn't hide a weight decay.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from runner.checks.golden import Golden, golden, is_golden
from runner.checks.problem import FORMULA_STEPS, STEPS
from runner.checks.refusals import (
    FORMULA_TOLERANCE,
    check_gradients,
    check_initial,
    check_outputs,
    check_updates,
    refusal,
    tolerance_of,
)
from runner.checks.side_by_side import Updates
from runner.checks.toy import on_toy
from runner.checks.trajectory import VARIANTS, Trajectories
from runner.core.optimizer_spec import OptimizerSpec
from runner.errors import ConfigError


class Numbers(NamedTuple):
    """What of a run its program doesn't contain.

    Attributes:
      learning_rates: float32, of each step.
      hyperparameters: the optimizer's floats.
      optimizer: the section of the configuration.
      wanted: the optimization that it asks for.
    """

    learning_rates: np.ndarray
    hyperparameters: dict[str, float]
    optimizer: dict[str, Any]
    wanted: OptimizerSpec


class Found(NamedTuple):
    """What a run's record gets.

    Attributes:
      probe: some updates of the live pipeline, rounded to hide how machines round. Runs
        with different ones are updated differently, whatever their names are. None if
        the pipeline can't run on a toy.
      optax: its version, and whether it was compared with the released one.
    """

    probe: list[float] | None
    optax: str


def verify(trajectories: Trajectories, numbers: Numbers, refuse: bool) -> Found:
    """Drive the numbers of a run through a pipeline.

    Args:
      trajectories: those of the run's program.
      numbers: those of the run.
      refuse: whether to refuse what differs; else it is only probed.

    Raises:
      ConfigError: names what differs, where, by how much, and what it looks like.
    """
    numbers = numbers._replace(wanted=on_toy(numbers.wanted))
    toy = trajectories.toy._replace(wanted=numbers.wanted)
    released, text = golden(toy, numbers.optimizer)
    rates, values = _variants(numbers, released)
    try:
        updates = trajectories.formula(rates, values)
    except ConfigError:
        if refuse:
            raise
        return Found(None, text)
    if refuse:
        if released:
            _check_library(released, updates, f"optax {text}", numbers.wanted)
        if trajectories.replaced:
            raise refusal(f"{trajectories.replaced}, which isn't the library's own")
        for variant in range(2 if numbers.hyperparameters else 1):
            one = jax.tree.map(lambda x, i=variant: x[i], updates)
            own = {k: float(v[variant]) for k, v in values.items()}
            _check_formula(trajectories, numbers, rates[variant], one, own)
        _check_trajectory(trajectories, numbers)
    exempt = bool(numbers.wanted.exempt)
    probe = _probe(updates.after.live, updates, 0, exempt)
    return Found([float(f"{value:.6g}") for value in probe], text)


def _check_trajectory(trajectories: Trajectories, numbers: Numbers) -> None:
    rates = _sampled(numbers.learning_rates, STEPS)
    found = trajectories.take(rates, numbers.hyperparameters)
    check_initial(tuple(found.initial[:2]), trajectories.toy.groups)
    tolerance = tolerance_of(found.initial.opt_state)
    problem = trajectories.problem
    check_updates(numbers.wanted, problem, rates, found.updates, tolerance)
    check_gradients(found)
    check_outputs(found)


def _check_library(
    released: Golden, updates: Updates, optax: str, wanted: OptimizerSpec
) -> None:
    if not is_golden(released, _probe(updates.after.reference, updates, -1)):
        raise refusal(
            f"{optax} isn't the released one: {wanted.name} makes other updates than "
            "after a clean installation, so something replaced a part of it"
        )


def textbook_probe(trajectories: Trajectories, numbers: Numbers) -> list[float]:
    """The probe of the installed library, for `runner.checks.golden`."""
    updates = trajectories.formula(*_variants(numbers, None))
    return _probe(updates.after.reference, updates, 0)


def _sampled(rates: np.ndarray, count: int) -> np.ndarray:
    """`count` of the learning rates, from all over the run."""
    return rates[np.linspace(0, len(rates) - 1, count).astype(int)]


def _variants(numbers: Numbers, released: Golden | None) -> tuple[np.ndarray, dict]:
    """Learning rates and hyperparameters: the run's, other ones, and golden ones.

    Runs that differ only in hyperparameters share a compiled program, which must read
    them from its arguments. A pipeline with built-in values is caught by other values.
    """
    own = numbers.hyperparameters
    golden = released.values if released else own
    values = {k: np.array([v, 0.9 * v, golden[k]]) for k, v in own.items()}
    rates = np.ones((VARIANTS, FORMULA_STEPS))
    # The large first step moves parameters far enough for a weight decay to show.
    rates[:, 1:] = _sampled(numbers.learning_rates, FORMULA_STEPS - 1)
    if released:
        rates[2, 1:] = released.learning_rate
    return rates, values


def _probe(
    after: Any, updates: Updates, variant: int, exempt: bool = False
) -> list[float]:
    """Changes of a weight with a gradient, of one whose gradient is zero, of a bias.

    Those of each group's layer too, and with `exempt` a weight that patterns exempt.
    """
    changes = jax.tree.map(lambda a, b: a[variant] - b[variant], after, updates.before)
    groups = changes.get("groups", {})
    shown = []
    for layer in (changes["output"], *(groups[name] for name in sorted(groups))):
        kernel, bias = (layer[name] for name in ("kernel", "bias"))
        shown += [kernel[:, 0, 0], kernel[:, 0, 3], bias[:, 0]]
    if exempt:
        shown.append(changes["dense"]["kernel"][:, 0, 3])
    return np.stack(shown, axis=1).ravel().tolist()


def _check_formula(
    trajectories: Trajectories,
    numbers: Numbers,
    rates: np.ndarray,
    updates: Updates,
    values: dict[str, float],
) -> None:
    problem, wanted = trajectories.formula_problem, numbers.wanted.with_values(values)
    try:
        check_updates(wanted, problem, rates, updates, FORMULA_TOLERANCE)
    except ConfigError as error:
        if values == numbers.hyperparameters:
            raise
        raise ConfigError(
            "verify: the pipeline doesn't use the hyperparameters that it is given. "
            f"With {values}: {error}"
        ) from error
