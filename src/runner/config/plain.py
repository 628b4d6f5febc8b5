"""Configurations as plain values."""

from enum import Enum
from typing import Any

from omegaconf import Node


def plain(config: Any) -> Any:
    """`config`, or a value in it, with its interpolations.

    Equal to `OmegaConf.to_container(config, resolve=False, enum_to_str=True)`, which
    takes four times as long; a job of a sweep asks six times.
    """
    value = config._value() if isinstance(config, Node) else config
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, Node):  # in a union
        return plain(value)
    return value.name if isinstance(value, Enum) else value
