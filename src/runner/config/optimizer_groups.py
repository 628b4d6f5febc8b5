"""`optimizer.groups`: what the configuration says of groups of parameters."""

import functools
import math
from collections.abc import Mapping
from typing import Any

from runner.core.group import REST, Group
from runner.errors import ConfigError
from runner.trees import NAME_RULE, is_name, is_pattern

# Of a group, beside arguments of its optimizer's function.
NOT_ARGUMENTS = ("pattern", "ndim", "frozen", "learning_rate", "_target_")


def sections(node: Any, key: str) -> dict[str, Any]:
    """The section `key`, and of `optimizer` those of its groups, each with a function.

    A group that names no function has that of the optimizer, and its arguments where it
    has none of its own.

    Args:
      node: the section as plain values.
      key: its own.

    Raises:
      ConfigError: a group isn't a mapping.
    """
    if key != "optimizer" or not isinstance(node, dict):
        return {key: node}
    base = {name: value for name, value in node.items() if name != "groups"}
    found = {key: base}
    for name, group in _groups(node).items():
        own = {k: v for k, v in group.items() if k not in NOT_ARGUMENTS}
        if group.get("_target_") is not None:
            rate = {"learning_rate": base.get("learning_rate")}
            found[f"{key}.groups.{name}"] = {"_target_": group["_target_"]} | rate | own
        else:
            found[f"{key}.groups.{name}"] = base | own
    return found


def groups(
    node: Mapping[str, Any], made: Mapping[str, functools.partial]
) -> tuple[Group, ...]:
    """The groups of an `optimizer` section, in its order.

    Args:
      node: the section, resolved.
      made: the function of each of its `sections`, with its arguments.

    Raises:
      ConfigError: names the key, the value and the rule.
    """
    return tuple(
        _group(name, group, node, made[f"optimizer.groups.{name}"])
        for name, group in _groups(node).items()
    )


def _groups(node: Mapping[str, Any]) -> dict[str, dict]:
    given = node.get("groups") or {}  # no optimizer's YAML has to have any
    if not isinstance(given, dict):
        raise ConfigError(
            f"optimizer.groups={given} must be a mapping of names, each with a pattern"
        )
    for name, group in given.items():
        if not is_name(str(name)) or name == REST:
            raise ConfigError(
                f"optimizer.groups.{name}: the name of a group must be made of "
                f"{NAME_RULE}, and not be {REST!r}, the other parameters"
            )
        if not isinstance(group, dict):
            raise ConfigError(
                f"optimizer.groups.{name}={group} must be a mapping, such as "
                "{pattern: kernel, learning_rate: 0.01}"
            )
    return given


def _group(
    name: str, group: dict[str, Any], node: Mapping[str, Any], made: functools.partial
) -> Group:
    key, pattern = f"optimizer.groups.{name}", group.get("pattern")
    ndim, frozen = group.get("ndim"), group.get("frozen", False)
    own = group.keys() - NOT_ARGUMENTS
    if pattern is None:
        raise ConfigError(
            f"{key}.pattern must be given: a regular expression that is found in the "
            "paths of its parameters"
        )
    if not is_pattern(pattern):
        raise ConfigError(f"{key}.pattern={pattern} must be a regular expression")
    if ndim is not None and (type(ndim) is not int or ndim < 0):
        raise ConfigError(f"{key}.ndim={ndim} must be a number of dimensions, or null")
    if type(frozen) is not bool:
        raise ConfigError(f"{key}.frozen={frozen} must be true or false")
    changing = sorted(own | group.keys() & {"learning_rate", "_target_"})
    if frozen and changing:
        raise ConfigError(
            f"{key}.frozen=true keeps its parameters as they are, so that "
            f"{key}.{changing[0]} has no effect; leave one of them out"
        )
    factor = 0.0 if frozen else _factor(key, group.get("learning_rate"), node)
    arguments = {k: v for k, v in made.keywords.items() if k != "learning_rate"}
    if group.get("_target_") is not None:
        own = arguments.keys()
    factory = functools.partial(made.func, *made.args, **arguments)
    return Group(name, pattern, ndim, frozen, factor, factory, frozenset(own))


def _factor(key: str, rate: Any, node: Mapping[str, Any]) -> float:
    """What the learning rate of each step is multiplied by, for `rate` at its peak."""
    if rate is None:
        return 1.0
    base = node.get("learning_rate")
    if type(rate) not in (int, float) or not 0 <= rate < math.inf:
        raise ConfigError(
            f"{key}.learning_rate={rate} must be a number of at least 0, or null for "
            "that of the optimizer"
        )
    if type(base) not in (int, float) or not base:
        raise ConfigError(
            f"{key}.learning_rate={rate} follows the schedule of "
            f"optimizer.learning_rate={base}, which must be above 0"
        )
    return rate / base
