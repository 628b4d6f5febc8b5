"""Numbers of 64 bits as JAX has them, in 32."""

import numpy as np

from runner.errors import ConfigError


def as_32_bits(what: str, x: np.ndarray) -> np.ndarray:
    """`x` itself if its numbers have fewer than 64 bits, else in float32 or int32.

    Raises:
        ConfigError: see `check_32_bits`.
    """
    if x.dtype.itemsize < 8:
        return x
    check_32_bits(what, x)
    return x.astype(np.float32 if x.dtype.kind == "f" else np.int32)


def check_32_bits(what: str, x: np.ndarray) -> None:
    """Refuses numbers that would be others, or infinite, in float32 or int32.

    Raises:
        ConfigError: begins with `what` has such a number.
    """
    held = np.finfo(np.float32) if x.dtype.kind == "f" else np.iinfo(np.int32)
    wide = x[np.isfinite(x) & ((x < held.min) | (x > held.max))]
    if len(wide):
        raise ConfigError(f"{what} with {wide[0]}, which 32 bits don't hold")
