"""Digests of all examples, so that runs on different data can't look alike."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from runner.data.dataset import Dataset, MemorySplit, Split

LARGEST = 10**9  # the most bytes of arrays of which all are read
_CHUNK = 2**24  # bytes that are read at once
_SAMPLE = 256  # examples
_READ_TWICE = 8  # examples of each split, to see whether they are the same


def data_digest(
    dataset: Dataset, hashes: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """What identifies the examples, as plain values.

    Args:
        hashes: Gets a number for each example of each split, equal for equal ones,
            where all are read.

    Returns:
        A digest of each column of each split: `{"train": {"label": ...}, ...}`. What
        isn't that says so by its only key:
        "contents": a digest that the data set has of its own, or of the files of data
        that stay on disk.
        "files": the path, inode, size and change time of each file, where the arrays
        would take more than `LARGEST` bytes.
        "sample": digests of some examples of each split, where their files aren't
        known either.
    """
    if dataset.contents is not None:
        return {"contents": dataset.contents}
    splits = dataset.splits
    in_memory = all(isinstance(split, MemorySplit) for split in splits.values())
    if sum(len(s) * _example_bytes(s) for s in splits.values()) > LARGEST:
        if dataset.files:
            return {"files": [_stat(path) for path in dataset.files]}
        return {"sample": {name: sampled(split) for name, split in splits.items()}}
    if dataset.files and not in_memory:
        return {"contents": _contents(dataset.files)}
    kept = {} if hashes is None else hashes
    return {name: _all(split, kept, name) for name, split in splits.items()}


def repeated(hashes: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many examples of each split but `train` are in `train` too."""
    train = hashes.get("train", np.zeros(0, np.uint64))
    counts = {k: int(np.isin(v, train).sum()) for k, v in hashes.items()}
    return {k: count for k, count in counts.items() if count and k != "train"}


def unrepeatable(dataset: Dataset) -> str | None:
    """The name of a split that gives other examples when it is read again."""
    for name, split in dataset.splits.items():
        if not isinstance(split, MemorySplit):
            rows = np.arange(min(len(split), _READ_TWICE))
            if rows_digest(split.rows(rows)) != rows_digest(split.rows(rows)):
                return name
    return None


def sha(data: bytes) -> str:
    """The digest of `data` as records have it."""
    return hashlib.sha256(data).hexdigest()[:16]


def rows_digest(rows: dict[str, np.ndarray]) -> dict[str, str]:
    """A digest of each array, its shape and its type."""
    return {
        name: sha(f"{x.dtype}{x.shape}".encode() + x.tobytes())
        for name, x in rows.items()
    }


def _all(split: Split, hashes: dict[str, np.ndarray], name: str) -> dict[str, str]:
    size = len(split)
    hashes[name] = np.zeros(size, np.uint64)
    count = max(1, _CHUNK // _example_bytes(split))

    def digests(start: int) -> dict[str, str]:
        stop = min(start + count, size)
        if isinstance(split, MemorySplit):  # without a copy
            rows = {name: x[start:stop] for name, x in split.columns.items()}
        else:
            rows = split.rows(np.arange(start, stop))
        hashes[name][start:stop] = _hashes(rows)
        return rows_digest(rows)

    starts = range(0, size, count)
    if len(starts) > 1 and isinstance(split, MemorySplit):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(digests, starts))
    else:
        parts = [digests(start) for start in starts]
    if len(parts) == 1:
        return parts[0]
    return {k: sha("".join(part[k] for part in parts).encode()) for k in parts[0]}


def _hashes(rows: dict[str, np.ndarray]) -> np.ndarray:
    """A number for each example: sums of its bytes, by random numbers, modulo 2**64."""
    total: Any = 0
    for i, name in enumerate(sorted(rows)):
        x = np.ascontiguousarray(rows[name])
        flat = x.view(np.uint8).reshape(len(x), -1)
        words = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8))).view(np.uint64)
        random = np.random.default_rng(i).bit_generator.random_raw(words.shape[1])
        total = total + (words * random).sum(axis=1, dtype=np.uint64)
    return total


def sampled(split: Split) -> dict[str, str]:
    """A digest of each column of some examples, which are always the same."""
    rows = np.unique(np.linspace(0, len(split) - 1, _SAMPLE).astype(int))
    return rows_digest(split.rows(rows))


def _example_bytes(split: Split) -> int:
    rows = split.rows(np.zeros(1, int))
    return max(1, sum(x.nbytes for x in rows.values()))


def _contents(files: Sequence[Path]) -> str:
    found = []
    for path in files:
        with path.open("rb") as file:
            found.append(path.name + hashlib.file_digest(file, "sha256").hexdigest())
    return sha("".join(found).encode())


def _stat(path: Path) -> dict[str, Any]:
    stat = path.stat()
    changed = datetime.fromtimestamp(stat.st_ctime_ns / 1e9, UTC)
    return {
        "path": str(path.resolve()),
        "inode": stat.st_ino,
        "bytes": stat.st_size,
        "changed": changed.isoformat(),
    }
