"""Compare what a pipeline did with what it should have done, and refuse what differs.

Each function raises a ConfigError that names what differs, where, by how much, and what
it looks like.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from runner.checks.diagnose import gradients_like, looks_like, scaled_like
from runner.checks.difference import first_difference
from runner.checks.problem import Problem
from runner.checks.side_by_side import SEEDS, Trajectory, Updates, replayed
from runner.checks.toy import initial_values
from runner.core.optimizer_spec import OptimizerSpec
from runner.errors import ConfigError
from runner.trees import path_text

# Relative to the largest value of its array. Two float64 implementations of one formula
# agree to 1e-12, but learning rates are float32, and a pipeline may compute them in its
# own way. In the run's precision a thousandth is a mistake, not rounding. Gradients and
# outputs of a small model round by some millionths, in float16 by half of a thousandth.
FORMULA_TOLERANCE, TOLERANCE, PASS_TOLERANCE = 1e-6, 1e-3, 1e-4
# Of a metric's values, the share that may differ: one logit's rounding flips a count,
# but seldom in float32.
FLIPS, SELDOM = 0.25, 0.05
# Where the last bits of the inputs change a step, as where a line search chooses, a
# difference of that size is none, nor is one in so many steps around, as many as an
# optimizer may remember. Of its other steps, it may differ in a share of them.
NEAR, CHAOTIC = 16, 0.05


def refusal(text: str) -> ConfigError:
    return ConfigError(f"verify: {text}. (verify=false trains anyway)")


def check_updates(
    asked: OptimizerSpec,
    problem: Problem,
    rates: np.ndarray,
    updates: Updates,
    tolerance: float,
) -> None:
    """Compare the changes of parameters with those that an optimizer makes."""
    float64 = tolerance == FORMULA_TOLERANCE
    where = " in float64" if float64 else ""
    ours, wanted = (
        jax.tree.map(np.subtract, after, updates.before) for after in updates.after
    )
    found = first_difference(ours, wanted, updates.before, tolerance)
    if not found:
        return
    before = updates.before
    shaken = replayed(asked, before, _shaken(problem), rates[None], 0)
    shaken = jax.tree.map(lambda x: x[0], shaken)
    slack = jax.tree.map(lambda x, y: _around(10 * (x - y)), shaken, wanted)
    found = first_difference(ours, wanted, before, tolerance, slack)
    chaotic = first_difference(shaken, wanted, before, TOLERANCE) is not None
    if not found or (chaotic and found.places.size < CHAOTIC * len(rates)):
        return

    def replay(candidate, rates, first):
        return replayed(candidate, before, problem, rates, first)

    likeness = looks_like(ours, found.places, asked, rates, replay)
    raise refusal(
        "the pipeline doesn't do what the config says. At step "
        f"{found.first + 1} of {len(rates)}{where} it changed {found.name} by "
        f"{found.ours:.6g} instead of {found.wanted:.6g}. {likeness}"
    )


def check_initial(initial: Any, groups: Sequence[str]) -> None:
    """Compare (params, model_state) for SEEDS with those of a toy of these groups."""
    canonical = [initial_values(np.uint32(seed), np, groups) for seed in SEEDS]
    wanted = jax.tree.map(lambda *x: np.stack(x), *canonical)
    found = first_difference(initial, wanted, wanted, TOLERANCE)
    if not found:
        return
    likeness = scaled_like(*(_at(x[0], found.first) for x in (initial, wanted)))
    if all(np.array_equal(*x) for x in jax.tree.leaves(initial[0])):
        likeness = "; every seed gives the same"
    raise refusal(
        "the pipeline's init doesn't give the model's initial values. "
        f"{found.name.partition('/')[2]} is {found.ours:.6g} instead of "
        f"{found.wanted:.6g}{likeness}"
    )


def check_gradients(found: Trajectory) -> None:
    """Compare sums, gradients and model states of all batches."""
    live, reference = found.gradients
    batches = len(live[0].loss)
    tolerance = tolerance_of(found.outputs, PASS_TOLERANCE)

    def check(part: int, what: str, likeness: Callable) -> None:
        ours, wanted = live[part], reference[part]
        if part == 0:  # metrics may flip
            names = "loss", "weight"
            ours, wanted = ({k: getattr(x, k) for k in names} for x in (ours, wanted))
        off = first_difference(ours, wanted, wanted, tolerance)
        if off:
            raise refusal(
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
    share = SELDOM if tolerance == PASS_TOLERANCE else FLIPS
    _check_metrics(live[0].metrics, reference[0].metrics, share)


def _check_metrics(ours: Any, wanted: Any, share: float) -> None:
    for (path, theirs), mine in zip(
        jax.tree.leaves_with_path(wanted), jax.tree.leaves(ours), strict=True
    ):
        close = np.isclose(mine, theirs, rtol=1e-2, atol=1e-6, equal_nan=True)
        off = ~close.reshape(len(close), -1).all(axis=1)
        if off.mean() > share:
            index = int(off.argmax())
            raise refusal(
                f"the pipeline's gradients report other metrics than the task's. At "
                f"batch {index + 1} of {len(off)} the sum {path_text(path)} is "
                f"{mine[index]} instead of {theirs[index]}"
            )


def check_outputs(found: Trajectory) -> None:
    """Compare the outputs of evaluation."""
    ours, wanted = found.outputs
    tolerance = tolerance_of(found.outputs, PASS_TOLERANCE)
    different = first_difference(ours, wanted, wanted, tolerance)
    if different:
        index = different.first
        likeness = scaled_like(_at(ours, index), _at(wanted, index))
        raise refusal(
            "the pipeline's predict doesn't evaluate the model. At batch "
            f"{index + 1} of {len(found.gradients.live[0].loss)} the output "
            f"{different.name} is {different.ours:.6g} instead of "
            f"{different.wanted:.6g}{likeness}"
        )


def tolerance_of(tree: Any, least: float = TOLERANCE) -> float:
    """`least`, or as much as the least precise of these arrays rounds."""
    dtypes = [x.dtype for x in jax.tree.leaves(tree)]
    floats = [d for d in dtypes if jax.numpy.issubdtype(d, np.floating)]
    return max([least, *(16 * float(jax.numpy.finfo(d).eps) for d in floats)])


def _at(tree: Any, index: Any) -> Any:
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
