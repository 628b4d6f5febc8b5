"""Check that a pipeline trains as the configuration says, before it does.

flax #4087 was a mix-up of optimizers that everybody took for a difference between
frameworks. So the live pipeline takes a trajectory with a toy model beside a second one
that is written as plainly as JAX allows: see `runner.checks.trajectory`. It does so in
the run's own precision, where a step may do anything that its inputs ask for, and in
float64, where rounding doesn't hide a weight decay.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.checks.diagnose import gradients_like, looks_like, scaled_like
from runner.checks.difference import first_difference
from runner.checks.golden import golden, is_golden
from runner.checks.problem import FORMULA_STEPS, STEPS, Problem
from runner.checks.toy import initial_values
from runner.checks.trajectory import (
    SEEDS,
    VARIANTS,
    Toy,
    Trajectories,
    Trajectory,
    Updates,
    replayed,
)
from runner.core.optimizers import OptimizerSpec
from runner.errors import ConfigError
from runner.trees import path_text

# Relative to the largest value of its array. Two float64 implementations of one formula
# agree to 1e-12, but learning rates are float32, and a pipeline may compute them in its
# own way. In the run's precision a thousandth is a mistake, not rounding.
FORMULA_TOLERANCE, TOLERANCE = 1e-6, 1e-3
# Of a metric's values, the share that may differ: one logit's rounding flips a count.
FLIPS = 0.25
# Where the last bits of the inputs change a step, as where a line search chooses, a
# difference of that size is none, nor is one in so many steps around, as many as an
# optimizer may remember. Of its other steps, it may differ in a share of them.
NEAR, CHAOTIC = 16, 0.05


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
        textbook = _probe(updates.after.reference, updates, -1)
        if released and not is_golden(released, textbook):
            raise _refusal(
                f"optax {text} isn't the released one: {toy.wanted.name} makes other "
                "updates than after a clean installation, so something replaced a part "
                "of it"
            )
        for variant in range(2 if numbers.hyperparameters else 1):
            chosen = jax.tree.map(lambda x, i=variant: x[i], (updates, values))
            _check_formula(trajectories, toy, rates[variant], *chosen, variant)
        sampled = _sampled(numbers.learning_rates, STEPS)
        found = trajectories.take(sampled, numbers.hyperparameters)
        _check_initial(tuple(found.initial[:2]))
        precise = _tolerance(found.initial.opt_state)
        _check_updates(toy, trajectories.problem, sampled, found.updates, precise)
        _check_gradients(found)
        _check_outputs(found)
    probe = _probe(updates.after.live, updates, 0)
    return Found([float(f"{value:.6g}") for value in probe], text)


def textbook_probe(trajectories: Trajectories, numbers: Numbers) -> list[float]:
    """The probe of the installed library, for `runner.checks.golden`."""
    updates = trajectories.formula(*_variants(numbers, None))
    return _probe(updates.after.reference, updates, 0)


def _sampled(rates: np.ndarray, count: int) -> np.ndarray:
    """`count` of the learning rates, from all over the run."""
    return rates[np.linspace(0, len(rates) - 1, count).astype(int)]


def _variants(numbers: Numbers, released: Any) -> tuple[np.ndarray, dict]:
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


def _probe(after: Any, updates: Updates, variant: int) -> list[float]:
    """Changes of a weight with a gradient, of one whose gradient is zero, of a bias."""
    changes = jax.tree.map(lambda a, b: a[variant] - b[variant], after, updates.before)
    kernel, bias = (changes["output"][name] for name in ("kernel", "bias"))
    shown = kernel[:, 0, 0], kernel[:, 0, 3], bias[:, 0]
    return np.stack(shown, axis=1).ravel().tolist()


def _refusal(text: str) -> ConfigError:
    return ConfigError(f"verify: {text}. (verify=false trains anyway)")


def _check_formula(
    trajectories: Trajectories,
    toy: Toy,
    rates: np.ndarray,
    updates: Updates,
    values: dict[str, np.ndarray],
    variant: int,
) -> None:
    values = {k: float(v) for k, v in values.items()}
    toy = toy._replace(wanted=toy.wanted.with_values(values))
    try:
        problem = trajectories.formula_problem
        _check_updates(toy, problem, rates, updates, FORMULA_TOLERANCE)
    except ConfigError as error:
        if variant == 0:
            raise
        raise ConfigError(
            "verify: the pipeline doesn't use the hyperparameters that it is given. "
            f"With {values}: {error}"
        ) from error


def _check_updates(
    toy: Toy, problem: Problem, rates: np.ndarray, updates: Updates, tolerance: float
) -> None:
    float64 = tolerance == FORMULA_TOLERANCE
    where = " in float64" if float64 else ""
    ours, wanted = (
        jax.tree.map(np.subtract, after, updates.before) for after in updates.after
    )
    found = first_difference(ours, wanted, updates.before, tolerance)
    if not found:
        return
    before = updates.before
    shaken = replayed(toy.wanted, before, _shaken(problem), rates[None], 0)
    shaken = jax.tree.map(lambda x: x[0], shaken)
    slack = jax.tree.map(lambda x, y: _around(10 * (x - y)), shaken, wanted)
    found = first_difference(ours, wanted, before, tolerance, slack)
    chaotic = first_difference(shaken, wanted, before, TOLERANCE) is not None
    if not found or (chaotic and found.places.size < CHAOTIC * len(rates)):
        return

    def replay(candidate, rates, first):
        return replayed(candidate, before, problem, rates, first)

    likeness = looks_like(ours, found.places, toy.wanted, rates, replay)
    raise _refusal(
        "the pipeline doesn't do what the config says. At step "
        f"{found.first + 1} of {len(rates)}{where} it changed {found.name} by "
        f"{found.ours:.6g} instead of {found.wanted:.6g}. {likeness}"
    )


def _check_initial(initial: Any) -> None:
    canonical = [initial_values(np.uint32(seed), np) for seed in SEEDS]
    wanted = jax.tree.map(lambda *x: np.stack(x), *canonical)
    found = first_difference(initial, wanted, wanted, TOLERANCE)
    if not found:
        return
    likeness = scaled_like(*(_at(x[0], found.first) for x in (initial, wanted)))
    if all(np.array_equal(*x) for x in jax.tree.leaves(initial[0])):
        likeness = "; every seed gives the same"
    raise _refusal(
        "the pipeline's init doesn't give the model's initial values. "
        f"{found.name.partition('/')[2]} is {found.ours:.6g} instead of "
        f"{found.wanted:.6g}{likeness}"
    )


def _check_gradients(found: Trajectory) -> None:
    live, reference = found.gradients
    batches = len(live[0].loss)

    def check(part: int, what: str, likeness: Callable) -> None:
        ours, wanted = live[part], reference[part]
        if part == 0:  # metrics may flip
            names = "loss", "weight"
            ours, wanted = ({k: getattr(x, k) for k in names} for x in (ours, wanted))
        off = first_difference(ours, wanted, wanted, _tolerance(found.outputs))
        if off:
            raise _refusal(
                "the pipeline's gradients aren't those of the task's loss. At batch "
                f"{off.first + 1} of {batches} the {what}{off.name} is {off.ours:.6g} "
                f"instead of {off.wanted:.6g}{likeness(ours, wanted, off.first)}"
            )

    def as_gradients(ours, wanted, at):
        return gradients_like(*(_at(x, at) for x in (ours, wanted, found.params)))

    def as_statistics(ours, wanted, at):
        before = jax.tree.map(
            lambda start, x: np.concatenate([start[:1], x]),
            found.initial.model_state,
            wanted,
        )
        same = first_difference(ours, _at(before, slice(batches)), wanted, TOLERANCE)
        return "" if same else "; it never changes"

    check(0, "", lambda ours, wanted, at: scaled_like(ours["loss"], wanted["loss"]))
    check(1, "gradient ", as_gradients)
    check(2, "model state ", as_statistics)
    _check_metrics(live[0].metrics, reference[0].metrics)


def _check_metrics(ours: Any, wanted: Any) -> None:
    for (path, theirs), mine in zip(
        jax.tree.leaves_with_path(wanted), jax.tree.leaves(ours), strict=True
    ):
        close = np.isclose(mine, theirs, rtol=1e-2, atol=1e-6, equal_nan=True)
        off = ~close.reshape(len(close), -1).all(axis=1)
        if off.mean() > FLIPS:
            index = int(off.argmax())
            raise _refusal(
                f"the pipeline's gradients report other metrics than the task's. At "
                f"batch {index + 1} of {len(off)} the sum {path_text(path)} is "
                f"{mine[index]} instead of {theirs[index]}"
            )


def _check_outputs(found: Trajectory) -> None:
    ours, wanted = found.outputs
    different = first_difference(ours, wanted, wanted, _tolerance(found.outputs))
    if different:
        index = different.first
        likeness = scaled_like(_at(ours, index), _at(wanted, index))
        raise _refusal(
            "the pipeline's predict doesn't evaluate the model. At batch "
            f"{index + 1} of {len(found.gradients.live[0].loss)} the output "
            f"{different.name} is {different.ours:.6g} instead of "
            f"{different.wanted:.6g}{likeness}"
        )


def _tolerance(tree: Any) -> float:
    """TOLERANCE, or as much as the least precise of these arrays rounds."""
    dtypes = [x.dtype for x in jax.tree.leaves(tree)]
    floats = [d for d in dtypes if jax.numpy.issubdtype(d, np.floating)]
    return max([TOLERANCE, *(16 * float(jax.numpy.finfo(d).eps) for d in floats)])


def _at(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _shaken(problem: Problem) -> Problem:
    """The same, but for the last bits of its gradients and losses."""

    def shaken(x):
        at = np.arange(x.size).reshape(x.shape)
        return x + x * (32 * np.finfo(x.dtype).eps * np.cos(at)).astype(x.dtype)

    parts = problem.gradients, problem.losses
    gradients, losses = jax.tree.map(shaken, parts)
    return problem._replace(gradients=gradients, losses=losses)


def _around(x: np.ndarray) -> np.ndarray:
    """The largest magnitude at each of the first axis' places and its NEAR ones."""
    padded = np.pad(np.abs(x), [(NEAR, NEAR), *[(0, 0)] * (x.ndim - 1)])
    return np.nanmax([padded[i : i + len(x)] for i in range(2 * NEAR + 1)], axis=0)
