"""The types of the configuration's keys, as the schema has them."""

import dataclasses
import typing
from typing import Any

from runner.config.argument_types import described
from runner.settings import Settings


def schema(key: str) -> Any:
    """The type of a dotted key; None if the schema hasn't it."""
    hint: Any = Settings
    for name in filter(None, key.split(".")):
        fields = typing.get_type_hints(hint) if isinstance(hint, type) else {}
        if name not in fields:
            return None
        hint = fields[name]
    return hint


def wanted(key: str) -> str | None:
    """The type of `key` in the schema, in words; None if it has no schema."""
    hint = schema(key)
    if hint is None:
        return None
    if dataclasses.is_dataclass(hint):
        return f"a section, whose keys are {', '.join(typing.get_type_hints(hint))}"
    return described(hint)


def section_of(name: str, kind: type = Settings) -> str:
    """The key of the section in `kind` whose class is called `name`; empty: none."""
    for key, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            below = section_of(name, typing.cast(type, hint))
            if below or getattr(hint, "__name__", "") == name:
                return f"{key}.{below}".removesuffix(".")
    return ""
