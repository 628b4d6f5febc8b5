"""A memory for the last few things that were made."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """What the last `most` keys stand for; an older one is made again when needed.

    A sweep's jobs have one data set and a few programs between them, but a process may
    see many, and they may be large.
    """

    def __init__(self, most: int):
        self._most = most
        self._made: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `key` stands for, from `make` if it isn't there."""
        if key not in self._made:
            made = make()
            while len(self._made) >= self._most:
                del self._made[next(iter(self._made))]
            self._made[key] = made
        return self._made[key]
