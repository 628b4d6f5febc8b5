"""Reads W&B's offline files.

LevelDB log framing around protobuf records. wandb 0.31 has no public reader; the
framing is as old as the format, but the protobuf module is private, so nothing that has
the run folder relies on it.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from runner.record.untrusted import ROWS_BYTES, read_bytes

_BLOCK = 32768


def wandb_files(folder: Path) -> list[Path]:
    """The runs below `folder`, each once: `latest-run` is a link to one of them."""
    return sorted({path.resolve() for path in folder.rglob("run-*.wandb")})


def read_run(path: Path) -> dict[str, Any]:
    """{"config", "history", "summary", "exit_code"} of a file.

    Raises:
      OSError, ValueError: it can't be read, is too large, or isn't a .wandb file of
        this version.
    """
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}}
    run["exit_code"] = None
    for kind, record in _records(io.BytesIO(read_bytes(path, ROWS_BYTES)), path):
        if kind == "run":
            _put(run["config"], record.config.update)
        elif kind in ("config", "summary"):
            _put(run[kind], record.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _put(row, record.item)
            if "step" in row:  # the last record holds only W&B's own run time
                run["history"].append(row)
        elif kind == "exit":
            run["exit_code"] = record.exit_code
    run["config"].pop("_wandb", None)
    return run


def extent(path: Path, last: int | None = None) -> tuple[int, int, int | None]:
    """How many rows a file of any size has, the last step of them, -1 if none, and
    the run's exit code.

    Args:
      path: of the file.
      last: how many bytes at its end are read, about; by default all.

    Raises:
      OSError, ValueError: it can't be read, or isn't a .wandb file of this version.
    """
    rows, step, exit_code = 0, -1, None
    with path.open("rb") as file:
        skipped = path.stat().st_size - last if last else 0
        for kind, record in _records(file, path, max(skipped // _BLOCK, 0)):
            if kind == "exit":
                exit_code = record.exit_code
            elif kind == "history":
                for item in record.item:
                    if "step" in (item.key, *item.nested_key):
                        rows, step = rows + 1, max(step, int(item.value_json))
    return rows, step, exit_code


def extents(root: Path, identity: str) -> tuple[int, int | None, Path | None]:
    """The last step in the files of a run below `root`, its exit code if it is over,
    and where they are."""
    last, over, where = -1, None, None
    for file in sorted(root.glob(f"*run-*-{identity}/run-{identity}.wandb")):
        try:
            rows, step, over = extent(file)
        except ValueError:  # of a start that failed
            continue
        if rows or where is None:
            where = file.parent
        last = max(last, step)
    return last, over if last >= 0 else None, where


def _records(
    file: IO[bytes], path: Path, skipped: int = 0
) -> Iterator[tuple[str, Any]]:
    """Kind and content of the records after some blocks, up to the first torn one."""
    from wandb.proto import wandb_internal_pb2

    if file.read(7) != struct.pack("<4sHB", b":W&B", 0xBEE1, 0):
        raise ValueError(f"{path}: not a .wandb file of version 0")
    file.seek(max(skipped * _BLOCK, 7))
    record: bytes | None = None  # of which the beginning is known
    while True:
        left = _BLOCK - file.tell() % _BLOCK
        header = file.read(7 if left >= 7 else left + 7)[-7:]
        if len(header) < 7:
            return
        checksum, size, kind = struct.unpack("<IHB", header)
        chunk = file.read(size)
        is_whole = len(chunk) == size
        if not is_whole or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        if kind in (1, 2):  # 1 full, 2 first
            record = chunk
        elif record is not None:
            record += chunk
        if record is not None and kind in (1, 4):  # 4 last
            # Made at import by protobuf, so no type checker sees it.
            found = wandb_internal_pb2.Record.FromString(record)  # pyright: ignore
            if name := found.WhichOneof("record_type"):
                yield name, getattr(found, name)


def _put(tree: dict, items: Any) -> None:
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
