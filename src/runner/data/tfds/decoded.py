"""Columns that were decoded before, kept beside the prepared data.

TFDS decodes example by example, 0.1 ms each, and takes 0.2 s to import. So data sets
that fit on a device are kept as arrays in `<data_dir>/.decoded`, one file for each
choice of splits and columns. A file is used only while the prepared files are those
that it was made from, and only if its contents have their recorded checksum.
"""

import contextlib
import functools
import importlib.util
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runner.data.dataset import MemorySplit, Split
from runner.data.digest import rows_digest, sha


class Decoded(NamedTuple):
    """What was read of a data set.

    Attributes:
        splits: by name.
        classes: the number of classes of each column of classes.
        size_mb: of all splits as they are on disk, in MiB.
        files: those that the examples are read from.
    """

    splits: Mapping[str, Split]
    classes: dict[str, int]
    size_mb: float
    files: list[Path]


def path_of(data_dir: Path, request: Mapping[str, Any]) -> Path | None:
    """The file for what `request` describes; None if a user's code reads the data."""
    if ":" in request["name"]:  # pkg.module:Builder, which may have been edited
        return None
    digits = importlib.util.find_spec("runner.data.digits")
    assert digits and digits.origin
    code = sha(Path(digits.origin).read_bytes())
    versions = [code, version("tensorflow-datasets")]
    text = json.dumps([versions, dict(request)], sort_keys=True)
    return data_dir / ".decoded" / f"{sha(text.encode())}.safetensors"


def load(path: Path) -> Decoded | None:
    """What `save` has written, or None if it isn't there, is stale or is damaged."""
    try:
        record, decoded = _read(path, path.stat().st_mtime_ns)
        return decoded if record["files"] == _files(record["folder"]) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


# The jobs of a sweep that share a process share its columns.
@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> tuple[dict[str, Any], Decoded]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            record = json.loads(file.metadata()["record"])
            columns = {
                split: {name: file.get_tensor(f"{split}/{name}") for name in names}
                for split, names in record["splits"].items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    splits = {name: MemorySplit(arrays) for name, arrays in columns.items()}
    if record["digests"] != _digests(splits):
        raise ValueError(f"{path} doesn't have its recorded checksum")
    for split in splits.values():
        for column in split.columns.values():
            column.flags.writeable = False
    files = [Path(file) for file in record["read_from"]]
    return record, Decoded(splits, record["classes"], record["size_mb"], files)


def save(path: Path, decoded: Decoded, folder: str) -> None:
    """Keep `decoded`, which was read from the prepared `folder`, if that is possible.

    Its splits are in memory. A reader finds the whole file or none.
    """
    from safetensors.numpy import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    splits = {
        name: split
        for name, split in decoded.splits.items()
        if isinstance(split, MemorySplit)
    }
    try:
        record = {
            "folder": folder,
            "files": _files(folder),
            "splits": {k: list(split.columns) for k, split in splits.items()},
            "classes": decoded.classes,
            "size_mb": decoded.size_mb,
            "read_from": [str(file) for file in decoded.files],
            "digests": _digests(splits),
        }
        arrays = {
            f"{key}/{name}": np.ascontiguousarray(column)
            for key, split in splits.items()
            for name, column in split.columns.items()
        }
        path.parent.mkdir(exist_ok=True)
        save_file(arrays, temporary, {"record": json.dumps(record)})
        os.replace(temporary, path)
    except OSError:  # full or read-only: the data are decoded again next time
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _files(folder: str) -> list[list]:
    """Name, size and time of change of each file that TFDS has prepared."""
    found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    stats = [(entry.name, entry.stat()) for entry in found]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _digests(splits: Mapping[str, MemorySplit]) -> dict[str, dict[str, str]]:
    return {name: rows_digest(split.columns) for name, split in splits.items()}
