"""Repeatable bits on a GPU: the flag of XLA that the setting `deterministic` sets."""

import os
import re
import sys
from pathlib import Path

import jax
from jax._src import xla_bridge  # there is no public name for whether JAX has started

from runner.errors import ConfigError

FLAG = "--xla_gpu_deterministic_ops"


def set_up(deterministic: bool) -> None:
    """Add FLAG to XLA_FLAGS, which XLA reads once, when JAX starts.

    Sums on a GPU then have a fixed order, and kernels aren't chosen by timing them. On
    another device the flag changes nothing. What the user has set stays.

    If JAX has started on a GPU without the flag, a warning says so, and XLA_FLAGS,
    which is recorded, stays as it was.

    Raises:
      ConfigError: XLA_FLAGS has the flag with the other value.
    """
    flags = _flags()
    asked = str(deterministic).lower()
    given = re.findall(rf"{FLAG}(?:=(\S*))?(?!\S)", flags)
    if given:
        if (given[-1].lower() in ("", "1", "true")) != deterministic:
            raise ConfigError(
                f"deterministic={asked}, but XLA_FLAGS has {FLAG}={given[-1]}, either "
                "from the environment or from an earlier run of this process. XLA "
                "reads its flags once: start another process, or change one of both"
            )
        return
    started = xla_bridge.backends_are_initialized()
    if deterministic and started and jax.default_backend() == "gpu":
        print(
            f"warning: deterministic=true comes too late: JAX has started without "
            f"{FLAG}=true in XLA_FLAGS, so the same run may give other bits. Set it "
            "before the first use of JAX, or set deterministic=false",
            file=sys.stderr,
        )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}={asked}".strip()


def _flags() -> str:
    """The flags in XLA_FLAGS, or in the file that it names."""
    text = os.environ.get("XLA_FLAGS", "").strip()
    if not text or text.startswith("-"):
        return text
    try:
        return " ".join(Path(text).read_text().split())
    except OSError as error:
        raise ConfigError(
            f"XLA_FLAGS={text} is neither flags nor a file: {error.strerror}"
        ) from error
