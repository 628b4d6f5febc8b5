"""Hydra-configured experiment runner for JAX."""

import importlib
from typing import Any

# What there is from Python, and where. Read when it is first asked for: the command
# line shouldn't wait for what it doesn't use.
_NAMES = {
    "compare_runs": "runner.library",
    "load_run": "runner.saved.saved_run",
    "run": "runner.library",
    "run_sweep": "runner.library",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
