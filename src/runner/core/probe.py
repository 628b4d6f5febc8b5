"""Probes: numbers about a logged step that nothing of the training depends on."""

import contextlib
from collections.abc import Callable, Mapping
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
