"""The memory of the devices."""

import math
import os
from typing import Any

import jax

from runner.errors import ConfigError


def free_bytes() -> float:
    """The memory that is free on each device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def refuse_too_large(state: Any, params: Any) -> None:
    """Refuse a state that can't fit, before anything is traced or compiled.

    Args:
      state: shapes, with shardings, of all that a step hands to the next.
      params: those of the parameters in it.

    Raises:
      ConfigError: names the number of parameters, and the bytes.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    # The devices of a CPU share its memory.
    limit = stats.get("bytes_limit")
    has = limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = sum(
        math.prod(x.sharding.shard_shape(x.shape) if limit else x.shape)
        * x.dtype.itemsize
        for x in jax.tree.leaves(state)
    )
    if needed > has:
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        raise ConfigError(
            f"model: its {count:,} parameters and the optimizer's state take "
            f"{needed / 1e9:,.0f} GB, and a device has {has / 1e9:,.0f} GB of memory"
        )
