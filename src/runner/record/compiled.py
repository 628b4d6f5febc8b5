"""XLA's compiled programs on disk, so that the next process need not compile them.

JAX looks them up by the lowered program, the compiler's options and version, and the
devices, so an old program can't run after an edit. It does so through `CheckedCache`.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache  # no public name for custom caches
from jax._src.compilation_cache_interface import CacheInterface

from runner.errors import ConfigError
from runner.record.cpu import cpu
from runner.record.files import write_bytes

_DIGEST_BYTES = hashlib.sha256().digest_size


def set_up(path: str | None) -> None:
    """Keep all compiled programs in the folder `path`; None keeps none.

    They are machine code that runs in this process. So a folder that belongs to another
    user, or that others can write to, isn't used; a message says so.

    Raises:
      ConfigError: the folder can't be made or written.
    """
    folder = _trusted(path) if path else None
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder) if folder else None)
    # By default JAX doesn't store programs that compile in under a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if folder:
        compilation_cache._cache = CheckedCache(folder)


def _trusted(path: str) -> Path | None:
    """The folder `path`; None, and a warning, if code from it isn't to be run."""
    folder = why = None
    try:
        folder = Path(path).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stat = folder.stat()
        if not os.access(folder, os.W_OK):
            raise ConfigError(
                f"compilation_cache={path} can't be written; null turns it off"
            )
        if stat.st_uid != os.geteuid():
            why = f"it belongs to another user ({stat.st_uid})"
        elif stat.st_mode & 0o022:
            why = f"others can write to it (chmod go-w {folder} changes that)"
    except RuntimeError:  # no HOME, and a user whom the system doesn't know
        why = "there is no home folder: set HOME or XDG_CACHE_HOME"
    except OSError as error:
        raise ConfigError(
            f"compilation_cache={path} must be a folder that can be written, or "
            f"null: {error.strerror}"
        ) from error
    if why is None:
        return folder
    print(
        f"warning: compilation_cache={path} isn't used, since {why}: programs "
        "are compiled again",
        file=sys.stderr,
    )
    return None


class CheckedCache(CacheInterface):
    """A file for each compiled program: a checksum of name and content, then content.

    The name is JAX's, and the CPU, because a home folder may be shared.
    """

    def __init__(self, folder: Path):
        self._path = folder

    def get(self, key: str) -> Any:
        """The value stored as `key`; None if there is none, or it is damaged."""
        try:
            data = self._file(key).read_bytes()
        except OSError:
            return None
        value = data[_DIGEST_BYTES:]
        return value if data[:_DIGEST_BYTES] == _digest(key, value) else None

    def put(self, key: str, value: bytes) -> None:
        """Store `value`. If the disk is full, warn and store nothing."""
        try:
            write_bytes(self._file(key), _digest(key, value) + value)
        except OSError as error:
            print(f"warning: a compiled program isn't saved: {error}", file=sys.stderr)

    def _file(self, key: str) -> Path:
        return self._path / f"{key}-{cpu().digest}"


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.sha256(f"{key} {cpu().digest} ".encode() + value).digest()
