"""Which array of one form of a model is which array of the other."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.errors import ConfigError
from runner.parity.steps import named
from runner.trees import path_text


class Partners(NamedTuple):
    """Pairs of paths.

    Attributes:
      theirs: by the path in the first form, that in the other one.
      alone: paths of the first form that have no partner.
      alone_there: those of the other one.
    """

    theirs: dict[str, str]
    alone: list[str]
    alone_there: list[str]

    def both(self, path: str, other: str) -> str:
        """`path`, and what the other form, named `other`, calls it if not the same."""
        there = self.theirs.get(path, path)
        return path if there == path else f"{path} ({other}: {there})"

    def moved(self, tree: Any, like: Any) -> Any:
        """The first form's `tree` in the structure of the other's, which `like` has.

        What has no partner stays as it is in `like`. The trees may hold others, as an
        optimizer's state does.

        Raises:
          ConfigError: an array of `like` that belongs to one of a pair, or to none of
            them, isn't in `tree`.
        """
        found, ours = named(tree), {b: a for a, b in self.theirs.items()}

        def source(path: Any, leaf: Any) -> Any:
            text = path_text(path)
            for end in _ends(text):
                if end in self.alone_there:
                    return leaf
                if end in ours:
                    text = text.removesuffix(end) + ours[end]
                    break
            if text not in found or np.shape(found[text]) != np.shape(leaf):
                raise ConfigError(
                    f"the optimizer's states differ: one form has {path_text(path)} "
                    f"{list(np.shape(leaf))}, which the other one doesn't"
                )
            return found[text]

        return jax.tree.map_with_path(source, like)


def _ends(path: str) -> Iterable[str]:
    """`path`, and what is left of it without its first parts."""
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))


def pair(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    order: Callable[[], tuple[Sequence[str], Sequence[str]]],
) -> Partners:
    """Pair the arrays of two forms; what could be several is not guessed.

    Those of one shape and dtype, first with the same path, then with the same spelt
    otherwise (`Block_0/Dense_1`, `block/0/dense/1`), then with the same last two names,
    then the same last name, as many in one form as in the other, in order of their use.

    Args:
      ours: the first form's arrays by path.
      theirs: the other's.
      order: gives the paths of both in the order in which a forward pass uses them.
    """
    found: dict[str, str] = {}

    def match(
        name: Callable[[str], Any], used: tuple[Sequence[str], Sequence[str]] | None
    ) -> None:
        left = [p for p in ours if p not in found]
        right = [p for p in theirs if p not in set(found.values())]
        if used is not None:
            left, right = (
                sorted((p for p in u if p in side), key=u.index)
                for u, side in zip(used, (left, right), strict=True)
            )
        groups: dict[Any, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, arrays, paths in ((0, ours, left), (1, theirs, right)):
            for path in paths:
                a = arrays[path]
                groups[name(path), a.shape, a.dtype][side].append(path)
        for (key, *_), (mine, its) in groups.items():
            if key is not None and len(mine) == len(its) and (used or len(mine) == 1):
                found.update(zip(mine, its, strict=True))

    match(lambda path: path, None)
    match(_plain, None)
    if len(found) < max(len(ours), len(theirs)):
        used = order()
        match(_last_two, used)
        match(lambda path: path.split("/")[-1], used)
    there = set(found.values())
    return Partners(
        found,
        [p for p in ours if p not in found],
        [p for p in theirs if p not in there],
    )


def _plain(path: str) -> str:
    """`path` as linen and nnx may both spell it."""
    numbered = re.sub(r"_(\d+)(?=/|$)", r"/\1", path.removeprefix("batch_stats/"))
    return numbered.replace("_", "").lower()


def _last_two(path: str) -> str | None:
    """The last two names, such as `query/kernel`; None after a mere number."""
    names = _plain(path).split("/")[-2:]
    return None if len(names) < 2 or names[0].isdigit() else "/".join(names)
