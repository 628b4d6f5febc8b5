"""A group of parameters that an optimizer treats in a way of its own."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from runner.trees import is_found

REST = "rest"  # the group of parameters that are in no other
FACTOR = "learning_rate_factor"


class Group(NamedTuple):
    """Parameters with an optimization of their own.

    Attributes:
      name: of the group.
      pattern: a regular expression that is found in their paths.
      ndim: the number of their dimensions; None for any.
      frozen: whether they keep their values.
      factor: by which the learning rate of each step is multiplied.
      factory: the optimizer's function and its arguments, but the learning rate.
      own: those arguments that aren't the values of the run's optimizer.
    """

    name: str
    pattern: str
    ndim: int | None
    frozen: bool
    factor: Any
    factory: functools.partial
    own: frozenset[str]

    def matches(self, path: str, ndim: int) -> bool:
        """Whether a parameter is one that the group asks for."""
        return is_found(self.pattern, path) and self.ndim in (None, ndim)

    def key(self, argument: str) -> str:
        """The name of the hyperparameter that `argument` is."""
        is_own = argument == FACTOR or argument in self.own
        return f"groups.{self.name}.{argument}" if is_own else argument

    def with_values(self, hyperparameters: Mapping[str, Any]) -> "Group":
        """The same with other values of the float arguments."""
        keys = {name: self.key(name) for name in self.factory.keywords}
        found = {n: hyperparameters[k] for n, k in keys.items() if k in hyperparameters}
        return self._replace(
            factor=hyperparameters[self.key(FACTOR)],
            factory=functools.partial(self.factory, **found),
        )
