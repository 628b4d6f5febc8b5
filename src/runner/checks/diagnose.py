"""Name the optimizer that a sequence of updates looks like, for error messages."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from runner.core.optimizers import OptimizerSpec
from runner.core.schedules import ReduceOnPlateau

MATCH = 1e-4  # relative distance below which an optimizer is named
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
    observed: list[Any],
    wanted: OptimizerSpec,
    rates: np.ndarray,
    replay: Callable[[Any], list[Any]],
) -> str:
    """A sentence that names the optimizer whose updates are closest to `observed`.

    Args:
      observed: the parameter changes, step by step.
      wanted: the optimizer that they should have come from.
      rates: the requested learning rates; all but the first are the run's.
      replay: returns the changes that a transformation makes for the same gradients.
    """
    ours = _flat(observed)
    if not np.any(ours):
        return "The parameters don't change at all"
    best, sentence = MATCH, ""
    for name, part, candidate in _candidates(wanted):
        for shape in (rates, rates**2, np.ones_like(rates)):
            try:
                theirs = _flat(replay(candidate.textbook(shape)))
            except (TypeError, ValueError):  # the candidate can't have this config
                continue
            # Updates scale with the learning rate, so this is the ratio of the two.
            factor = np.vdot(theirs, ours) / max(np.vdot(theirs, theirs), 1e-300)
            distance = np.linalg.norm(ours - factor * theirs) / np.linalg.norm(ours)
            if candidate is wanted and shape is rates and abs(factor - 1) < MATCH:
                continue  # the difference is below the matching tolerance
            if distance < best:
                best = distance
                rate, how = _matched_rate(wanted, rates, shape, factor)
                sentence = f"{name}({rate:.4g}){part}{how}"
        if best < MATCH / 10:
            break
    asked = wanted.text + (" with its schedule" if np.ptp(rates[1:]) else "")
    if not sentence:
        return f"The observed updates match neither {asked} nor any usual optimizer"
    return f"The observed updates match {sentence}, not {asked}"


def _matched_rate(
    wanted: OptimizerSpec, rates: np.ndarray, shape: np.ndarray, factor: float
) -> tuple[float, str]:
    """The learning rate of a match, and in words how it changes."""
    varies = np.ptp(rates[1:]) > 0
    learning_rate = wanted.factory.keywords["learning_rate"]
    if shape is rates:
        return learning_rate * factor, " with its schedule" if varies else ""
    if np.ptp(shape):
        return learning_rate * factor, " with the learning rate applied twice"
    return factor, " at a constant learning rate" if varies else ""


def _candidates(wanted: OptimizerSpec) -> Iterator[tuple[str, str, OptimizerSpec]]:
    """(name, addition to it, optimizer): the wanted one without a part, and others."""
    name, arguments = wanted.text.split("(")[0], wanted.factory.keywords
    without_plateau = wanted._replace(schedule=wanted.base_schedule)
    if isinstance(wanted.schedule, ReduceOnPlateau):
        yield name, " without reduce_on_plateau", without_plateau
    yield name, "", wanted
    if wanted.clip_global_norm is not None:
        yield name, " without clipping", wanted._replace(clip_global_norm=None)
    if wanted.mask_weight_decay:
        unmasked = wanted._replace(mask_weight_decay=False)
        yield name, " without its mask", unmasked
    for part, none in (("weight_decay", 0.0), ("momentum", None)):
        if arguments.get(part):
            without = functools.partial(wanted.factory, **{part: none})
            text = f" without {part.replace('_', ' ')}"
            yield name, text, wanted._replace(factory=without)
    plain = without_plateau._replace(clip_global_norm=None, mask_weight_decay=False)
    for other, part, factory in (
        (name, " with its default arguments", wanted.factory.func),
        *USUAL,
    ):
        yield other, part, plain._replace(factory=functools.partial(factory))


def _flat(changes: list[Any]) -> np.ndarray:
    leaves = [np.ravel(leaf) for step in changes for leaf in jax.tree.leaves(step)]
    return np.nan_to_num(np.concatenate(leaves).astype(float))
