"""XLA's compiled programs on disk, so that the next process need not compile them."""

import os
from pathlib import Path

import jax

from runner.errors import ConfigError

folder: Path | None = None  # None: nothing is kept


def set_up(path: str | None) -> None:
    """Keep compiled programs in the folder `path`, all of them; None keeps none.

    Raises:
      ConfigError: the folder can't be written.
    """
    global folder
    folder = Path(path).expanduser() if path else None
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"compilation_cache={path} must be a folder that can be written, or "
                f"null: {error.strerror}"
            ) from error
        if not os.access(folder, os.W_OK):
            raise ConfigError(
                f"compilation_cache={path} can't be written; null turns it off"
            )
    jax.config.update("jax_compilation_cache_dir", str(folder) if folder else None)
    # JAX's thresholds keep programs that compile in under a second to itself.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
