"""Trees by the names of their leaves: configurations, and those of arrays."""

import re
from collections.abc import Callable, Mapping
from typing import Any


def path_text(path: Any) -> str:
    """A path of `jax.tree_util` as text, such as `params/dense_0/kernel`."""
    import jax

    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_key(leaf: Any) -> bool:
    """Whether a leaf of arrays, or of their shapes, has PRNG keys."""
    import jax

    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of arrays, by their paths as text."""
    import jax

    return {path_text(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def kinds(tree: Any) -> list[tuple[Any, Any]]:
    """The shape and the dtype of each leaf of a tree of arrays, in order."""
    import jax

    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def is_found(pattern: str, path: str) -> bool:
    """Whether a regular expression is found in a path: `^` is where the path begins."""
    return re.search(pattern, path) is not None


def is_pattern(pattern: Any) -> bool:
    """Whether it is a regular expression."""
    try:
        return isinstance(pattern, str) and re.compile(pattern) is not None
    except re.error:
        return False


NAME_RULE = "letters, digits, _ and -"


def is_name(name: Any) -> bool:
    """Whether it can be a part of a path, and of a file's name."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w-]*", name) is not None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": 1} from {"a": {"b": 1}}. Lists and empty mappings stay as they are."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(
    old: Any,
    new: Any,
    skip: Callable[[str], bool] = lambda key: False,
    key: str = "",
) -> list[tuple[str, Any, Any]]:
    """The keys at which two trees differ, with both values; None stands for no value.

    Args:
      skip: whether a key, and all below it, may differ.
      key: the place of these two in a larger tree.
    """
    if key and skip(key):
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for name in dict.fromkeys([*old, *new])
            for difference in differences(
                old.get(name), new.get(name), skip, f"{key}.{name}" if key else name
            )
        ]
    return [] if old == new else [(key, old, new)]
