"""Hydra-configured experiment runner for JAX."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazily: the command line shouldn't wait for what it doesn't use.
    if name == "load_run":
        from runner.replay.saved_run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
