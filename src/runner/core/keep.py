"""How runs in one process share what is made for the first of them."""

from collections.abc import Callable, Hashable
from typing import Any

# (key, make) -> the result of `make`, maybe kept from an earlier call with the same
# key. A key starts with the kind of result.
Keep = Callable[[tuple[Hashable, ...], Callable[[], Any]], Any]


def make_anew(key: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
    """A `Keep` that keeps nothing."""
    return make()
