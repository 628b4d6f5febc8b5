"""Probes: numbers about a logged step that nothing of the training depends on."""

import contextlib
import math
import re
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
# What JAX says of who has a leaked value: a name, after objects that are in <>.
_HOLDER = re.compile(r"is referred to by (\w\S*)$", re.MULTILINE)
# (parameters, gradients, updates, batch) -> numbers of a row, by name.
Probe = Callable[[Any, Any, Any, Any], dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joined:
    """Numbers of a row, or of several, in one array.

    With an array for each of them, the loop takes as long for these as a probe takes
    to compute what is in them.

    Attributes:
      bits: int32 [..., n], those of all numbers, one after the other: any type in one
        array, and none rounded to another.
      kinds: of each name in a row, the shape and the type of its numbers.
    """

    bits: Any
    kinds: tuple[tuple[str, tuple[int, ...], np.dtype], ...] = field(
        metadata={"static": True}
    )

    def apart(self) -> dict[str, np.ndarray]:
        """The numbers by name, each [..., *shape], once they are on the host."""
        found, start = {}, 0
        for name, shape, kind in self.kinds:
            end = start + math.prod(shape) * kind.itemsize // 4
            part = np.ascontiguousarray(self.bits[..., start:end]).view(kind)
            found[name] = part.reshape(part.shape[:-1] + shape)
            start = end
        return found


def joined(numbers: Mapping[str, jax.Array]) -> Joined:
    """The numbers of a row, which have names."""
    bits = (jax.lax.bitcast_convert_type(x, jnp.int32) for x in numbers.values())
    joined = jnp.concatenate([jnp.zeros(0, jnp.int32), *map(jnp.ravel, bits)])
    return Joined(joined, tuple((k, x.shape, x.dtype) for k, x in numbers.items()))


def probe(functions: Mapping[str, Callable[..., Any]]) -> Probe:
    """All probes of a run as one.

    Args:
      functions: by the names of the probes, of all of GIVEN by name.

    Raises:
      ConfigError: from what is returned, when it is traced: a probe gives something
        that isn't numbers of a row, or keeps what it gets.
    """
    unchecked = set(functions)

    def probe(*arguments: Any) -> dict[str, jax.Array]:
        given = dict(zip(GIVEN, arguments, strict=True))
        numbers: dict[str, jax.Array] = {}
        for name, function in functions.items():
            try:
                if name in unchecked:
                    _refuse_keeping(function, given)
                    unchecked.discard(name)
                numbers |= _numbers(f"{PROBE}{name}", function(**given))
            except ConfigError as error:
                raise ConfigError(f"probes.{name}: {error}") from error
        return numbers

    return probe


def _refuse_keeping(function: Callable[..., Any], given: Mapping[Any, Any]) -> None:
    """Refuse a probe that keeps values of a trace, which the next trace would use.

    It is traced for this alone.
    """

    def called(given: Mapping[Any, Any]) -> None:
        function(**given)

    try:
        with jax.checking_leaks():
            jax.eval_shape(called, given)
    except Exception as error:  # JAX has no class for it
        if not str(error).startswith("Leaked trace"):
            raise
        holder = _HOLDER.search(str(error))
        where = f": {holder[1]}" if holder else ""
        raise ConfigError(
            "it keeps a value of the step that it looks at, in a global, an attribute "
            f"or a cache{where}. It may only return numbers"
        ) from error


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
        try:
            number = jnp.asarray(value)
        except OverflowError as error:
            raise ConfigError(f"{key}: {error}; return a float") from error
        is_whole = jnp.issubdtype(number.dtype, jnp.integer)
        if _is_real(number) and not (is_whole and number.dtype.itemsize >= 4):
            number = number.astype(jnp.int32 if is_whole else jnp.float32)
    if number is None or number.ndim > 1 or not _is_real(number):
        raise ConfigError(
            f"{key} is {kind}, and must be a number, a list of numbers in one "
            "dimension, or a dict of such"
        )
    return {key: number}


def _is_real(x: jax.Array) -> bool:
    kinds = jnp.floating, jnp.integer, jnp.bool_
    return any(jnp.issubdtype(x.dtype, kind) for kind in kinds)
