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
    """{"config", "history", "summary", "exit_code", "group", "name", ...} of a file.

    Raises:
      OSError, ValueError: it can't be read, is too large, or isn't a .wandb file of
        this version.
    """
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}}
    run["exit_code"] = None
    for record in _records(io.BytesIO(read_bytes(path, ROWS_BYTES)), path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            message = record.run
            run.update(
                id=message.run_id,
                name=message.display_name,
                project=message.project,
                group=message.run_group,
                job_type=message.job_type,
                tags=list(message.tags),
            )
            _put(run["config"], message.config.update)
        elif kind == "config":
            _put(run["config"], record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _put(row, record.history.item)
            if "step" in row:  # the last record holds only W&B's own run time
                run["history"].append(row)
        elif kind == "summary":
            _put(run["summary"], record.summary.update)
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    run["config"].pop("_wandb", None)
    return run


def extent(path: Path) -> tuple[int, int, int | None]:
    """How many rows a file of any size has, the last step of them, -1 if none, and
    the run's exit code.

    Raises:
      OSError, ValueError: it can't be read, or isn't a .wandb file of this version.
    """
    rows, last, exit_code = 0, -1, None
    with path.open("rb") as file:
        for record in _records(file, path):
            kind = record.WhichOneof("record_type")
            if kind == "exit":
                exit_code = record.exit.exit_code
            elif kind == "history":
                for item in record.history.item:
                    if "step" in (item.key, *item.nested_key):
                        rows, last = rows + 1, max(last, int(item.value_json))
    return rows, last, exit_code


def _records(file: IO[bytes], path: Path) -> Iterator[Any]:
    """The records up to the end or the first torn one."""
    from wandb.proto import wandb_internal_pb2

    if file.read(7) != struct.pack("<4sHB", b":W&B", 0xBEE1, 0):
        raise ValueError(f"{path}: not a .wandb file of version 0")
    record = b""
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
        record = chunk if kind in (1, 2) else record + chunk  # 1 full, 2 first
        if kind in (1, 4):  # 4 last
            # Made at import by protobuf, so no type checker sees it.
            yield wandb_internal_pb2.Record.FromString(record)  # pyright: ignore


def _put(tree: dict, items: Any) -> None:
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(item.value_json)
