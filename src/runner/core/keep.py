"""How runs of one process come to share what is made for the first of them."""

from collections.abc import Callable, Hashable
from typing import Any

# (key, make) -> what `make` made when it was last asked for the same key, which begins
# with the kind of what is made.
Keep = Callable[[tuple[Hashable, ...], Callable[[], Any]], Any]


def make_anew(key: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
    """A `Keep` that keeps nothing."""
    return make()
