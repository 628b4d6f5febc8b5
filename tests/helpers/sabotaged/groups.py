"""Pipelines that treat all parameters alike where the configuration has groups."""

import jax
import optax

from helpers.sabotaged.updates import _after, _changed
from runner.core.group import FACTOR
from runner.core.groups import decayed


def ignores_the_groups(model, task, optimizer):
    """What a script has that knows one optimizer."""
    return _changed(model, task, optimizer, lambda rate, h: optax.adam(rate))


def ignores_group_rates(model, task, optimizer):
    def change(rate, h):
        even = {k: 1.0 if k.endswith(FACTOR) else v for k, v in h.items()}
        return optimizer.transformation(rate, even)

    return _changed(model, task, optimizer, change)


def knows_group_rates(model, task, optimizer):
    """The config's, but not as arguments: the next run would get them too."""

    def change(rate, h):
        own = {k: v for k, v in optimizer.hyperparameters.items() if FACTOR in k}
        return optimizer.transformation(rate, h | own)

    return _changed(model, task, optimizer, change)


def group_rate_without_schedule(model, task, optimizer):
    def change(rate, h):
        of = {k: v * 0.001 / rate if k.endswith(FACTOR) else v for k, v in h.items()}
        return optimizer.transformation(rate, of)

    return _changed(model, task, optimizer, change)


def trains_the_frozen(model, task, optimizer):
    """A step so small that no loss shows it."""

    def change(before, after):
        moved = jax.tree.map(lambda x: x * (1 - 1e-4), before.params["groups"])
        return after._replace(params=after.params | {"groups": moved})

    return _after(model, task, optimizer, change)


def clips_with_the_frozen(model, task, optimizer):
    """The gradients of what is frozen count in the norm that the others are cut to."""

    def change(rate, h):
        rest = {k: v for k, v in h.items() if k != "clip_global_norm"}
        clip = optax.clip_by_global_norm(h["clip_global_norm"])
        return optax.chain(clip, optimizer.transformation(rate, rest))

    return _changed(model, task, optimizer, change)


def decays_masked_parameters(model, task, optimizer):
    """Biases and norm scales are spared, but not what the patterns name."""

    def change(rate, h):
        return optax.adamw(rate, weight_decay=h["weight_decay"], mask=decayed(()))

    return _changed(model, task, optimizer, change)


HEAD = "+optimizer.groups.head={pattern: output, learning_rate: 0.01}"
FROZEN = "+optimizer.groups.still={pattern: dense, frozen: true}"
# Pipeline, overrides, and what the refusal must say.
CASES = [
    (
        "ignores_the_groups",
        ["+optimizer.groups.head={pattern: output, b1: 0.5}"],
        r"match optax\.adam\(0\.001\) without its groups",
    ),
    (
        "ignores_group_rates",
        [HEAD],
        r"match optax\.adam\(0\.001\) without the rate of optimizer\.groups\.head",
    ),
    ("knows_group_rates", [HEAD], r"doesn't use the hyperparameters that it is given"),
    (
        "group_rate_without_schedule",
        [HEAD, "schedule=cosine"],
        r"it changed groups/head/\w+\[[\d, ]+\] by",
    ),
    (
        "trains_the_frozen",
        [FROZEN],
        r"it changed groups/still/\w+\[[\d, ]+\] by .* of 0",
    ),
    (
        "clips_with_the_frozen",
        [FROZEN, "optimizer=sgd", "train.clip_global_norm=50"],
        r"it changed \S+ by",
    ),
    (
        "decays_masked_parameters",
        ["optimizer=adamw", "train.mask_weight_decay=[output]"],
        r"match optax\.adamw\(0\.001\) without the patterns of its mask",
    ),
]
