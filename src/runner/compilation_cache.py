"""XLA's compiled programs on disk, so that the next process need not compile them."""

import os
from pathlib import Path

import jax

from runner.errors import ConfigError


def set_up(folder: str | None) -> None:
    """Keep compiled programs in `folder`, all of them; None keeps none.

    Raises:
      ConfigError: the folder can't be written.
    """
    path = Path(folder).expanduser() if folder else None
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"compilation_cache={folder} must be a folder that can be written, or "
                f"null: {error.strerror}"
            ) from error
        if not os.access(path, os.W_OK):
            raise ConfigError(
                f"compilation_cache={folder} can't be written; null turns it off"
            )
    jax.config.update("jax_compilation_cache_dir", str(path) if path else None)
    # JAX's thresholds keep programs that compile in under a second to itself.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
