"""A job's identity: the part of its configuration that distinguishes it."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig

from runner.config.hydra_job import hydra_aside
from runner.config.plain import plain
from runner.settings import GROUPS, SECTIONS, identifies_job


def base_of(config: DictConfig, swept: Collection[str] = ()) -> dict[str, Any]:
    """The part of `config` that may change a job's result, unresolved.

    Args:
      config: the composed configuration.
      swept: keys that distinguish the jobs of a sweep, kept whatever they affect.
    """
    with hydra_aside(config):
        values = plain(config)
    return _identifying(values, "", swept)


def _identifying(
    tree: Mapping[Any, Any], prefix: str, swept: Collection[str]
) -> dict[str, Any]:
    kept = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in swept:
            kept[str(name)] = value
        elif isinstance(value, dict) and (
            key in SECTIONS
            or key in GROUPS
            or any(name.startswith(f"{key}.") for name in swept)
        ):
            section = _identifying(value, f"{key}.", swept)
            if section:
                kept[str(name)] = section
        elif identifies_job(key):
            kept[str(name)] = value
            if key == "optimizer.groups" and len(value or ()) > 1:
                kept["order of groups"] = list(value)  # the first that matches counts
    return kept


def fingerprint(base: Mapping[str, Any]) -> str:
    """A hash of `base`: equal for equal contents."""
    text = json.dumps(base, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
