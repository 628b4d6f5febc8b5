"""Groups of parameters that an optimizer treats in a way of their own.

A parameter belongs to the first group whose pattern is found in its path, as an array
is split by the first of `mesh.rules`; without one it is of the rest.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey

from runner.core.group import FACTOR, REST, Group
from runner.errors import ConfigError, few
from runner.trees import is_found, path_text

SHOWN = 12  # parameters in a message; the others are counted
NDIM = 2  # of what weight decay is for: not biases or norm scales


def labels(groups: Sequence[Group]) -> Callable[[Any], Any]:
    """A function: parameters -> the name of each one's group, for `optax.partition`."""

    def label(path: Any, leaf: Any) -> str:
        return label_of(groups, parameter(path), jnp.ndim(leaf))

    return lambda params: jax.tree.map_with_path(label, params)


def label_of(groups: Sequence[Group], path: str, ndim: int) -> str:
    """The name of the group of one parameter."""
    found = (group.name for group in groups if group.matches(path, ndim))
    return next(found, REST)


def frozen(groups: Sequence[Group]) -> Callable[[Any], Any]:
    """A function: parameters -> whether each one keeps its value."""
    names = {group.name for group in groups if group.frozen}
    of = labels(groups)
    return lambda params: jax.tree.map(lambda name: name in names, of(params))


def decayed(exempt: Sequence[str]) -> Callable[[Any], Any]:
    """A function: parameters -> whether weight decay applies to each one.

    It doesn't to biases and norm scales, nor where a pattern of `exempt` is found.
    """

    def is_decayed(path: Any, leaf: Any) -> bool:
        spared = any(is_found(pattern, parameter(path)) for pattern in exempt)
        return jnp.ndim(leaf) >= NDIM and not spared

    return lambda params: jax.tree.map_with_path(is_decayed, params)


def parameter(path: Any) -> str:
    """The path of a parameter, such as `dense_0/kernel`; in nnx, of its variable."""
    is_value = bool(path) and path[-1] == GetAttrKey("value")
    return path_text(path[:-1] if is_value else path)


def rates(learning_rate: Any, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate of each group, by its name, where that of the rest is given."""
    return {
        key.split(".")[1]: learning_rate * value
        for key, value in hyperparameters.items()
        if key.startswith("groups.") and key.endswith(f".{FACTOR}")
    }


def check(groups: Sequence[Group], exempt: Sequence[str], params: Any) -> None:
    """Refuse groups and exemptions that aren't about the parameters of a model.

    Args:
      groups: `optimizer.groups`.
      exempt: patterns of `train.mask_weight_decay`.
      params: the parameters, or their shapes.

    Raises:
      ConfigError: names the pattern and the parameters.
    """
    found = {parameter(p): x.ndim for p, x in jax.tree.leaves_with_path(params)}
    shown = few([f"{path} ({ndim}-d)" for path, ndim in found.items()], SHOWN)
    counts = Counter(label_of(groups, *one) for one in found.items())
    for group in groups:
        if counts[group.name]:
            continue
        start = f"optimizer.groups.{group.name}: {group.pattern!r}"
        if group.ndim is not None:
            start += f" with ndim={group.ndim}"
        taken = {label_of(groups, *one) for one in found.items() if group.matches(*one)}
        if taken:
            raise ConfigError(
                f"{start} matches only parameters of {' and '.join(sorted(taken))}: "
                "a parameter belongs to the first group that matches it, so put this "
                "one before"
            )
        raise ConfigError(f"{start} matches none of the parameters {shown}")
    if groups and not counts[REST]:
        raise ConfigError(
            f"optimizer.groups: {', '.join(g.name for g in groups)} match all "
            f"parameters, so the optimizer itself would train none of {shown}. Give "
            "it the settings of one group, and remove that one"
        )
    for pattern in exempt:
        if not any(is_found(pattern, path) for path in found):
            raise ConfigError(
                f"train.mask_weight_decay: {pattern!r} matches none of the parameters "
                f"{shown}"
            )
    if exempt and not any(jax.tree.leaves(decayed(exempt)(params))):
        raise ConfigError(
            f"train.mask_weight_decay={list(exempt)} exempts all parameters from "
            f"weight decay: {shown}. Set optimizer.weight_decay=0 instead"
        )
