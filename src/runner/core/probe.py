"""Probes: numbers about a logged step that nothing of the training depends on."""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.errors import ConfigError
from runner.settings import PROBE

# What a probe may take, by the names of its parameters.
GIVEN = ("parameters", "gradients", "updates", "batch")
# (parameters, gradients, updates, batch) -> numbers of a row, by name.
Probe = Callable[[Any, Any, Any, Any], dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joined:
    """Numbers of a row, or of several, in one array.

    With an array for each of them, the loop takes as long for these as a probe takes
    to compute what is in them.

    Attributes:
      values: float32 [..., n], all numbers one after the other.
      shapes: of each name in a row, the shape of its numbers.
    """

    values: Any
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = field(metadata={"static": True})

    def apart(self) -> dict[str, np.ndarray]:
        """The numbers by name, each [..., *shape], once they are on the host."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.shapes], dtype=int)
        parts = np.split(self.values, ends, axis=-1)  # and an empty one
        return {
            name: part.reshape(part.shape[:-1] + shape)
            for (name, shape), part in zip(self.shapes, parts, strict=False)
        }


def joined(numbers: Mapping[str, jax.Array]) -> Joined:
    """The numbers of a row, which have names."""
    values = jnp.concatenate(
        [jnp.zeros(0, jnp.float32), *map(jnp.ravel, numbers.values())]
    )
    return Joined(values, tuple((name, x.shape) for name, x in numbers.items()))


def probe(functions: Mapping[str, Callable[..., Any]]) -> Probe:
    """All probes of a run as one.

    Args:
      functions: by the names of the probes, of all of GIVEN by name.

    Raises:
      ConfigError: from what is returned, when it is traced: a probe gives something
        that isn't numbers of a row.
    """

    def probe(*arguments: Any) -> dict[str, jax.Array]:
        given = dict(zip(GIVEN, arguments, strict=True))
        numbers: dict[str, jax.Array] = {}
        for name, function in functions.items():
            try:
                numbers |= _numbers(f"{PROBE}{name}", function(**given))
            except ConfigError as error:
                raise ConfigError(f"probes.{name}: {error}") from error
        return numbers

    return probe


def _numbers(key: str, value: Any) -> dict[str, jax.Array]:
    """What a probe returned, by names in a row: `key`, or those below it."""
    if isinstance(value, Mapping):
        found: dict[str, jax.Array] = {}
        for name, part in value.items():
            if not str(name).strip() or not str(name).isprintable():
                raise ConfigError(f"{key} has the name {name!r}, which can't be shown")
            numbers = _numbers(f"{key}/{name}", part)
            if twice := found.keys() & numbers.keys():
                raise ConfigError(f"{min(twice)} is there twice")
            found |= numbers
        return found
    kind, number = f"a {type(value).__name__}", None
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        kind = f"{value.dtype}{list(value.shape)}"
    with contextlib.suppress(TypeError, ValueError):
        number = jnp.asarray(value)
    if number is None or number.ndim > 1 or not _is_real(number):
        raise ConfigError(
            f"{key} is {kind}, and must be a number, a list of numbers in one "
            "dimension, or a dict of such"
        )
    return {key: number.astype(jnp.float32)}


def _is_real(x: jax.Array) -> bool:
    kinds = jnp.floating, jnp.integer, jnp.bool_
    return any(jnp.issubdtype(x.dtype, kind) for kind in kinds)
