"""The files that a path in the configuration stands for, and what identifies them."""

import glob
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, did_you_mean


def find_files(key: str, path: str, endings: Collection[str] = ()) -> list[Path]:
    """The files of a file's, a folder's or a glob's path, sorted by their paths.

    A folder stands for all files in it and below, but for hidden ones.

    Args:
        key: Of the configuration, for the messages.
        path: `~` is the home folder; a relative path begins in the working directory.
        endings: Those that files of a folder or a glob have, in lower case; none: any.

    Raises:
        ConfigError: there is no such file, or none that can be read.
    """
    place = expanded(key, path)
    if place.is_file():
        found = [place]
    elif place.is_dir():
        found = [f for f in place.rglob("*") if not _is_hidden(f, place)]
    else:
        found = [Path(name) for name in glob.glob(str(place), recursive=True)]
        if not found:
            raise ConfigError(
                f"{key}={path} is no file and no folder, and no glob that matches any, "
                f"in {os.getcwd()}.{_nearest(place)}"
            )
    files = [f for f in found if f.is_file()]
    if not place.is_file():
        ends = tuple(endings) or ("",)
        files = [f for f in files if f.name.lower().endswith(ends)]
    if not files:
        wanted = f" that ends with {', '.join(endings)}" if endings else ""
        raise ConfigError(f"{key}={path} holds no file{wanted}")
    for file in files:
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{key}={path}: {file} can't be read: no permission")
    return sorted(files)


def expanded(key: str, path: str, variable: str | None = None) -> Path:
    """`path` with `~` replaced by the home folder.

    Args:
        key: Of the configuration, for the messages.
        path: Anything but "".
        variable: Of the environment, that `key` is taken from.

    Raises:
        ConfigError: it is empty, or begins in a home folder that isn't known.
    """
    if not path:
        raise ConfigError(f"{key} is empty: give the path of a file or a folder")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no HOME, and a user whom the system doesn't know
        ways = ", ".join(filter(None, ("HOME", variable)))
        raise ConfigError(
            f"{key}={path} needs a home folder, and there is none: set {ways} or {key}"
        ) from error


def identity(files: Collection[Path]) -> list[list[Any]]:
    """What changes with any of `files`: path, inode, bytes, times of change."""
    found = [(str(file.resolve()), file.stat()) for file in files]
    return [
        [path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for path, stat in found
    ]


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _nearest(place: Path) -> str:
    try:
        return did_you_mean(place.name, os.listdir(place.parent))
    except OSError:
        return ""
