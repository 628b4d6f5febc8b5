"""Configurations as plain values."""

from enum import Enum
from typing import Any

from omegaconf import MISSING, Container, Node, OmegaConf, UnionNode

# The types of most values and keys. Asking whether one is a node takes longer.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def plain(config: Any) -> Any:
    """`config`, or a value in it, with its interpolations.

    Equal to `OmegaConf.to_container(config, resolve=False, enum_to_str=True)`, which
    takes several times as long; a job of a sweep asks six times.
    """
    if type(config) in _PLAIN:
        return config
    value = config._value() if isinstance(config, Node) else config
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, Node):  # in a union
        return plain(value)
    return value.name if isinstance(value, Enum) else value


def without_interpolations(config: Container, complete: bool = False) -> Any:
    """`config` without its interpolations.

    Equal to `OmegaConf.to_container(config, resolve=True, throw_on_missing=complete)`,
    which asks of each value whether it is one, and takes several times as long.

    Raises:
      OmegaConfBaseException: one refers to nothing; a value is missing from what must
        be complete.
    """
    content = config._value()
    if not isinstance(content, dict | list):  # itself an interpolation, or missing
        return _by_omegaconf(config, complete)
    is_dict = isinstance(content, dict)
    found = {
        key: _item(config, key, node, complete)
        for key, node in (content.items() if is_dict else enumerate(content))
    }
    return found if is_dict else [*found.values()]


def _item(config: Any, key: Any, node: Node, complete: bool) -> Any:
    value = node._value()
    if isinstance(value, dict | list):
        assert isinstance(node, Container)
        return without_interpolations(node, complete)
    if isinstance(value, str):
        is_missing = value == MISSING
        if "${" not in value and not (is_missing and complete):
            return value
    elif not isinstance(node, UnionNode):
        return value
    return _by_omegaconf(config[key], complete)


def _by_omegaconf(value: Any, complete: bool) -> Any:
    if not isinstance(value, Container):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=complete)
