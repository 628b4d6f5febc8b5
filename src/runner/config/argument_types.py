"""Checks the plain values of a configuration against type annotations."""

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def hints(function: Any) -> dict[str, Any]:
    """The annotations of `function`; none if they can't be evaluated."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # optax.adafactor's name a type imported for checkers only
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain `value` fits `hint`. Anything fits an unknown hint."""
    options = _options(hint)
    return any(_fits_one(value, option) for option in options)


def described(hint: Any) -> str:
    """`hint` in words, such as "a whole number or null"."""
    options = _options(hint)
    if float in options:
        options = [option for option in options if option is not int]
    words: list[str] = []
    for option in options:
        if get_origin(option) is Literal:
            words += map(str, get_args(option))
        elif option in _WORDS:
            words.append(_WORDS[option])
        elif _is_list(option):
            items = [i for i in _items(option)[:1] if i is not Any]
            words.append("a list")
            words[-1] += "".join(f", each item {described(i)}" for i in items)
        elif _kind(option) in (dict, Mapping):
            values = [v for v in get_args(option)[1:] if v is not Any]
            words.append("a mapping" + "".join(f" to {described(v)}" for v in values))
        elif _kind(option) is Callable and len(options) == 1:
            words.append("a function, as a mapping with _target_")
    return " or ".join(dict.fromkeys(words)) or str(hint)


def _options(hint: Any) -> list[Any]:
    if get_origin(hint) not in (Union, types.UnionType):
        return [type(None) if hint is None else hint]
    options = [o for member in get_args(hint) for o in _options(member)]
    # jax.typing.ArrayLike includes bool, but nobody means b1=true.
    return [o for o in options if o is not bool] if float in options else options


def _fits_one(value: Any, hint: Any) -> bool:
    kind = _kind(hint)
    if isinstance(value, dict) and "_target_" in value:
        return True
    if kind is Literal:
        return value in get_args(hint)
    if kind is float:
        return type(value) in (int, float)
    if kind in _WORDS:
        return type(value) is kind
    if _is_list(hint):
        items = _items(hint)
        return isinstance(value, list | tuple) and all(
            not items or any(fits(v, item) for item in items) for v in value
        )
    if kind in (dict, Mapping):
        return isinstance(value, dict)
    # No YAML value is a function or an array.
    module = getattr(kind, "__module__", "").split(".")[0]
    return not (kind in (Callable, complex) or module in ("jax", "jaxlib", "numpy"))


def _items(hint: Any) -> list[Any]:
    return [item for item in get_args(hint) if item is not ...]


def _is_list(hint: Any) -> bool:
    return _kind(hint) in (list, tuple, Sequence)


def _kind(hint: Any) -> Any:
    return get_origin(hint) or hint
