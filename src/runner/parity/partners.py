"""Which array of one form of a model is which array of the other."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.errors import ConfigError
from runner.trees import by_path, path_text


class Partners(NamedTuple):
    """Pairs of paths.

    Attributes:
      theirs: by the path in the first form, that in the other one.
      alone: paths of the first form that have no partner.
      alone_there: those of the other one.
      by_order: those of the first that only name, shape and order of use pair.
    """

    theirs: dict[str, str]
    alone: list[str]
    alone_there: list[str]
    by_order: list[str]

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
        found, ours = by_path(tree), {b: a for a, b in self.theirs.items()}

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
    found = _matched({}, ours, theirs, lambda path: path)
    found = sure = _matched(found, ours, theirs, _plain)
    if len(found) < max(len(ours), len(theirs)):
        mine, its = (
            {path: arrays[path] for path in paths if path in arrays}
            for arrays, paths in zip((ours, theirs), order(), strict=True)
        )
        found = sure = _matched(found, mine, its, _last_two, True)
        found = _matched(found, mine, its, lambda path: path.split("/")[-1], True)
    there = set(found.values())
    return Partners(
        found,
        [path for path in ours if path not in found],
        [path for path in theirs if path not in there],
        [path for path in found if path not in sure],
    )


def _matched(
    found: dict[str, str],
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    name: Callable[[str], str | None],
    several: bool = False,
) -> dict[str, str]:
    """`found`, and pairs of others of one `name`, shape and dtype, in their order.

    Args:
      several: whether there may be more than one of them.
    """
    there = set(found.values())
    groups: dict[Any, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, arrays, taken in ((0, ours, found), (1, theirs, there)):
        for path, array in arrays.items():
            if path not in taken and (called := name(path)) is not None:
                groups[called, array.shape, array.dtype][side].append(path)
    pairs = dict(found)
    for mine, its in groups.values():
        if len(mine) == len(its) and (several or len(mine) == 1):
            pairs.update(zip(mine, its, strict=True))
    return pairs


def _plain(path: str) -> str:
    """`path` as linen and nnx may both spell it."""
    numbered = re.sub(r"_(\d+)(?=/|$)", r"/\1", path.removeprefix("batch_stats/"))
    return numbered.replace("_", "").lower()


def _last_two(path: str) -> str | None:
    """The last two names, such as `query/kernel`; None after a mere number."""
    names = _plain(path).split("/")[-2:]
    return None if len(names) < 2 or names[0].isdigit() else "/".join(names)
