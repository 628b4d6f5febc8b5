"""Lets JAX compute here as it did where a run was recorded, as far as it can."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from omegaconf import DictConfig

from runner.core.mesh import devices
from runner.core.placement import Axes
from runner.errors import ConfigError
from runner.job import determinism
from runner.record import compiled
from runner.record.conditions import counted
from runner.record.untrusted import printable


def set_up(cfg: DictConfig, provenance: Mapping[str, Any]) -> None:
    """Set what JAX must know before anything is computed, and the mesh in `cfg`.

    Args:
      cfg: the recorded configuration, which gets the mesh that the run had.
      provenance: the run's.

    Raises:
      ConfigError: there are fewer devices here.
    """
    determinism.set_up(cfg.deterministic)
    count = _check_devices(provenance)
    if count is not None:
        mesh = cfg.mesh  # -1 takes all other devices, and here may be more of them
        for axis in Axes._fields:
            if mesh[axis] == -1:
                others = math.prod(mesh[other] for other in Axes._fields)
                mesh[axis] = count // -others
    try:
        compiled.set_up(cfg.compilation_cache)
    except ConfigError as error:  # another machine's folder
        print(printable(f"warning: no compilation cache is used: {error}"))
        compiled.set_up(None)
    jax.config.update("jax_debug_nans", cfg.train.debug_nans)


def _check_devices(recorded: Mapping[str, Any]) -> int | None:
    """How many devices the run had; None if that isn't recorded.

    Raises:
      ConfigError: there are fewer here.
    """
    here = devices()
    count = recorded.get("device_count")
    if count is not None and count > len(here):
        is_cpu = here[0].platform == "cpu"
        raise ConfigError(
            f"the run had {counted(recorded.get('devices')) or count} devices, and "
            f"there are {len(here)} x {here[0].device_kind} here. Another number of "
            "devices adds numbers in another order."
            + " JAX_NUM_CPU_DEVICES sets how many CPU devices there are."
            * is_cpu
        )
    return count
