"""Runs from W&B's offline files, for those whose run folders are gone.

LevelDB log framing around protobuf records. wandb 0.31 has no public reader; the
framing is as old as the format, but the protobuf module is private, so this is an
importer and nothing else relies on it.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.compare.load import Record, Runs, tables
from runner.errors import ConfigError

_BLOCK = 32768


def load(paths: Sequence[Path]) -> Runs:
    """Read the `run-*.wandb` files below `paths`, as `runner.compare.load` folders.

    Needs wandb, no account and no server. A file without an end, as a killed run leaves
    it, is a run whose status is "running".

    Raises:
      ConfigError: a path that isn't a folder, or no file that can be read.
    """
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder")
    files = sorted({file for path in paths for file in wandb_files(path)})
    folders = [_run_folder(file) for file in files]
    records, problems = [], []
    for file, folder in zip(files, folders, strict=True):
        try:
            # A resumed run has several files in its folder.
            place = folder if folders.count(folder) == 1 else file
            records.append(_record(place, read_run(file)))
        except (OSError, ValueError) as error:
            problems.append(" ".join(f"{file}: {error}".split()))
    if not records:
        raise ConfigError(
            f"no offline W&B run in {', '.join(map(str, paths))}: none of their files "
            "is a readable run-*.wandb" + "".join(f"\n{p}" for p in problems)
        )
    return tables(records, problems)


def wandb_files(folder: Path) -> list[Path]:
    """The runs below `folder`, each once: `latest-run` is a link to one of them."""
    return sorted({path.resolve() for path in folder.rglob("run-*.wandb")})


def _run_folder(file: Path) -> Path:
    """The folder of ours above wandb/offline-run-<time>-<id>/run-<id>.wandb."""
    return file.parents[2] if file.parents[1].name == "wandb" else file


def _record(folder: Path, run: dict[str, Any]) -> Record:
    config = run["config"]
    provenance = config.pop("provenance", {})
    final: dict[str, Any] = {}
    best: dict[str, dict[str, Any]] = {}
    for row in run["history"]:
        metrics = {k: v for k, v in row.items() if k[0] != "_" and k != "step"}
        final |= metrics
        for name, value in metrics.items():
            sign = name.endswith("accuracy") - name.endswith("loss")
            if not sign or value != value:
                continue
            if name not in best or sign * value > sign * best[name]["value"]:
                best[name] = {"value": value, "step": row["step"]}
    code = run["exit_code"]
    status = "running" if code is None else "failed" if code else "finished"
    summary = {"status": status, **run["summary"], "final": final, "best": best}
    rows = [{k: v for k, v in r.items() if k[0] != "_"} for r in run["history"]]
    return Record(folder, config, provenance, summary, rows)


def read_run(path: Path) -> dict[str, Any]:
    """{"config", "history", "summary", "exit_code", "group", "name", ...} of a file.

    Raises:
      ValueError: not a .wandb file of this version.
    """
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}}
    run["exit_code"] = None
    for record in records(path):
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


def records(path: Path) -> Iterator[Any]:
    """The records up to the end or the first torn one.

    Raises:
      ValueError: not a .wandb file of this version.
    """
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    if data[:7] != struct.pack("<4sHB", b":W&B", 0xBEE1, 0):
        raise ValueError(f"{path}: not a .wandb file of version 0")
    position, record = 7, b""
    while True:
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
        if position + 7 > len(data):
            return
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + 7 : position + 7 + size]
        is_whole = len(chunk) == size
        if not is_whole or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != checksum:
            return
        position += 7 + size
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
