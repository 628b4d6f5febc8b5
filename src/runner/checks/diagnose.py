"""Name what wrong numbers look like, for error messages."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from runner.checks.problem import ENDING
from runner.core.optimizer_spec import OptimizerSpec
from runner.core.schedules import ReduceOnPlateau

MATCH = 1e-4  # relative distance below which an optimizer is named
LENGTH = 32  # of the steps that differ, so many have to match
SHAPES = "own", "squared", "constant"  # of learning rates over a run
USUAL = (
    ("optax.sgd", "", optax.sgd),
    ("optax.sgd", " with momentum 0.9", functools.partial(optax.sgd, momentum=0.9)),
    (
        "optax.sgd",
        " with Nesterov momentum 0.9",
        functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    ),
    ("optax.adam", "", optax.adam),
    ("optax.adamw", "", optax.adamw),
    ("optax.nadam", "", optax.nadam),
    ("optax.rmsprop", "", optax.rmsprop),
    ("optax.adagrad", "", optax.adagrad),
    ("optax.lion", "", optax.lion),
    ("optax.sign_sgd", "", optax.sign_sgd),
)


def looks_like(
    observed: Any,
    places: np.ndarray,
    wanted: OptimizerSpec,
    rates: np.ndarray,
    replay: Callable[[OptimizerSpec, np.ndarray, int], Any],
) -> str:
    """A sentence that names the optimizer whose updates are closest to `observed`.

    Args:
      observed: the parameters' changes: trees of [steps, ...].
      places: the steps at which they aren't what they should be.
      wanted: the optimizer that they should have come from.
      rates: the requested learning rates of all steps.
      replay: returns the changes [n, steps, ...] that an optimizer makes for the same
        gradients with learning rates [n, steps], if it starts at a step.
    """
    first, part = places[0], places[:LENGTH]
    ours, since = _flat(observed, part), _since(places, len(rates))
    if not np.any(ours):
        return f"{since} parameters don't change at all"
    if not np.any(_flat(observed, part[:1])):
        return "The parameters don't change at all at this step"
    steady = np.ptp(rates[1:]) == 0
    shapes = np.stack([rates, rates**2, np.ones_like(rates)])
    best, sentence = MATCH, ""
    for name, addition, candidate in _candidates(wanted):
        try:
            every = replay(candidate, shapes, 0)
        except (TypeError, ValueError):  # the candidate can't have this config
            continue
        for kind, shape in enumerate(SHAPES):
            theirs = _flat(jax.tree.map(lambda x, i=kind: x[i], every), part)
            factor, distance = _match(ours, theirs)
            exact = abs(factor - 1) < MATCH and shape != "constant"
            if candidate is wanted and shape == "own" and exact:
                # The difference is below MATCH: another has to be much closer.
                best = min(best, 0.1 * distance)
                continue
            if not exact and places.size == 1:
                continue  # of a single step, SGD with some learning rate is no news
            if distance < best * (0.1 if sentence else 1):
                best = distance
                rate, how = _matched_rate(wanted, shape, factor, steady)
                sentence = f"{name}({rate:.4g}){addition}{how}"
        if sentence and best < MATCH / 10:
            break
    asked = wanted.text + ("" if steady else " with its schedule")
    if sentence:
        return f"{since} observed updates match {sentence}, not {asked}"
    if first:
        restarted = jax.tree.map(lambda x: x[0], replay(wanted, rates[None], first))
        restarted = _flat(restarted, part - first)
        factor, distance = _match(ours, restarted)
        if max(distance, abs(factor - 1)) < MATCH:
            return f"The updates are those of {asked} with its state reset at this step"
    return f"{since} observed updates match neither {asked} nor any usual optimizer"


def scaled_like(observed: Any, expected: Any) -> str:
    """A clause for what `observed`, at one index, is of `expected`; may be empty."""
    ours, theirs = _flat(observed), _flat(expected)
    if not np.any(ours):
        return "; all of it is 0"
    factor, distance = _match(ours, theirs)
    if distance < 1e-2 and abs(factor - 1) > 1e-3:
        return f"; all of it is {factor:.4g} times what it should be"
    return ""


def gradients_like(observed: Any, expected: Any, params: Any) -> str:
    """A clause for what wrong gradients are of the right ones; may be empty."""
    ours, theirs = _flat(observed), _flat(expected)
    if jax.tree.structure(observed) == jax.tree.structure(params):
        values = _flat(params)
        factor, distance = _match(ours - theirs, values)
        if distance < 1e-2:
            return f"; they are the right ones plus {factor:.4g} times the parameters"
        norms = [float(np.linalg.norm(x)) for x in (ours, theirs)]
        text = f"; their norm is {norms[0]:.4g} instead of {norms[1]:.4g}"
        return scaled_like(observed, expected) or text
    return scaled_like(observed, expected)


def _match(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The factor by which `theirs` comes closest to `ours`, and the distance left."""
    factor = np.vdot(theirs, ours) / max(np.vdot(theirs, theirs), 1e-300)
    distance = np.linalg.norm(ours - factor * theirs) / np.linalg.norm(ours)
    return float(factor), float(distance)


def _matched_rate(
    wanted: OptimizerSpec, shape: str, factor: float, steady: bool
) -> tuple[float, str]:
    """The learning rate of a match, and in words how it changes."""
    learning_rate = wanted.factory.keywords["learning_rate"]
    if shape == "own":
        return learning_rate * factor, "" if steady else " with its schedule"
    if shape == "squared":
        return learning_rate * factor, " with the learning rate applied twice"
    return factor, "" if steady else " at a constant learning rate"


def _candidates(wanted: OptimizerSpec) -> Iterator[tuple[str, str, OptimizerSpec]]:
    """(name, addition to it, optimizer): the wanted one without a part, and others."""
    name, arguments = wanted.name, wanted.factory.keywords
    without_plateau = wanted._replace(schedule=wanted.base_schedule)
    if isinstance(wanted.schedule, ReduceOnPlateau):
        yield name, " without reduce_on_plateau", without_plateau
    yield name, "", wanted
    if wanted.clip_global_norm is not None:
        yield name, " without clipping", wanted._replace(clip_global_norm=None)
    if wanted.mask_weight_decay:
        unmasked = wanted._replace(mask_weight_decay=False, exempt=())
        yield name, " without its mask", unmasked
    if wanted.exempt:
        yield name, " without the patterns of its mask", wanted._replace(exempt=())
    yield from _candidate_groups(wanted)
    for part, none in (("weight_decay", 0.0), ("momentum", None)):
        if arguments.get(part):
            without = functools.partial(wanted.factory, **{part: none})
            text = f" without {part.replace('_', ' ')}"
            yield name, text, wanted._replace(factory=without)
    plain = without_plateau._replace(
        clip_global_norm=None, mask_weight_decay=False, exempt=(), groups=()
    )
    function = wanted.factory.func
    for other, part, factory in (
        (name, f" with its default arguments{_defaults(wanted)}", function),
        *USUAL,
    ):
        yield other, part, plain._replace(factory=functools.partial(factory))


def _candidate_groups(
    wanted: OptimizerSpec,
) -> Iterator[tuple[str, str, OptimizerSpec]]:
    """Those without what is special about a group of parameters, and without groups."""
    groups = wanted.groups

    def but(i: int, **changed: Any) -> OptimizerSpec:
        other = groups[i]._replace(**changed)
        return wanted._replace(groups=(*groups[:i], other, *groups[i + 1 :]))

    for i, group in enumerate(groups):
        key = f"optimizer.groups.{group.name}"
        if group.frozen:
            yield (
                wanted.name,
                f" without {key}.frozen",
                but(i, frozen=False, factor=1.0),
            )
        else:
            yield wanted.name, f" without the rate of {key}", but(i, factor=1.0)
        if len(groups) > 1:
            fewer = wanted._replace(groups=(*groups[:i], *groups[i + 1 :]))
            yield wanted.name, f" without {key}", fewer
    if groups:
        yield wanted.name, " without its groups", wanted._replace(groups=())


def _defaults(wanted: OptimizerSpec) -> str:
    """The arguments that the wanted optimizer has beside its function's defaults."""
    parameters = inspect.signature(wanted.factory.func).parameters
    found = [
        f"{name}={parameters[name].default} instead of {value}"
        for name, value in wanted.factory.keywords.items()
        if name in parameters and name != "learning_rate"
        and parameters[name].default is not inspect.Parameter.empty
        and parameters[name].default != value
    ]  # fmt: skip
    return f" ({', '.join(found)})" if found else ""


def _since(places: np.ndarray, steps: int) -> str:
    """The beginning of a sentence about the steps `places` of so many."""
    first, last = places[0], places[-1]
    if places.size == last - first + 1 and last >= steps - ENDING:
        return f"From step {first + 1} on, the" if first > 1 else "The"
    return f"At {places.size} of {steps} steps the"


def _flat(changes: Any, part: Any = ...) -> np.ndarray:
    leaves = [np.ravel(np.asarray(leaf)[part]) for leaf in jax.tree.leaves(changes)]
    flat = np.concatenate(leaves).astype(float)
    return np.where(np.isfinite(flat), flat, 0)
