"""Reads files that anybody may have written, and makes their text safe to show."""

import json
import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from runner.record.files import is_locked, rows_of

# More than any run writes: what is beyond these could fill the memory.
JSON_BYTES = 16 << 20
ROWS_BYTES = 256 << 20
_DEPTH = 64  # of lists and mappings within each other
_KEYS = 20_000  # of one file
_COLUMNS = 2_000  # of all rows

# Those that move the cursor, colour or reorder a terminal's text, and halves of pairs.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""`text` with control characters as escapes, such as \x1b, but for \n and \t."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def one_line(text: object) -> str:
    """`text` for one line or one cell."""
    return " ".join(printable(str(text)).split())


def read_foreign(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      FileNotFoundError: there is none.
      OSError, ValueError: it can't be read, isn't one, or is too large; names the file.
    """
    data = read_bytes(path, JSON_BYTES)
    try:
        value = json.loads(data.decode())
        if isinstance(value, dict):
            _check_size(value)
    except RecursionError:
        raise ValueError(f"{path.name} has more than {_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def read_summary(folder: Path) -> dict[str, Any]:
    """A run's summary; a process that was killed can't write there that it was.

    Raises: see `read_foreign`.
    """
    path = folder / "summary.json"
    summary = read_foreign(path)
    if summary.get("status") != "running" or is_locked(folder) is not False:
        return summary
    summary = read_foreign(path)  # it may have ended since
    if summary.get("status") == "running":
        summary["status"] = "killed"
    return summary


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file: see `read_metrics`.

    Raises:
      FileNotFoundError: there is none.
      OSError, ValueError: it can't be read, has a line that isn't a JSON object, or is
        too large; names file and line.
    """
    rows = list(rows_of(read_bytes(path, ROWS_BYTES), path.name))
    if len(set().union(*rows)) > _COLUMNS:
        raise ValueError(f"{path.name} has more than {_COLUMNS:,} columns")
    return rows


def read_bytes(path: Path, most: int) -> bytes:
    """What is in a regular file of at most `most` bytes; never waits for a pipe.

    Raises:
      OSError, ValueError: it can't be read, or isn't such a file; names the file.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a device may do something
        raise ValueError(f"{path.name} is not a regular file")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        data = file.read(most + 1) if found.st_size <= most else b""
    if found.st_size > most or len(data) > most:
        raise ValueError(
            f"{path.name} has {max(found.st_size, len(data)) >> 20} MiB; at most "
            f"{most >> 20} MiB are read"
        )
    return data


def clean(tree: Any) -> Any:
    """`tree` as a table can hold it: text on one line, integers of 64 bits or text."""
    if isinstance(tree, Mapping):  # of floats, mostly
        return {_key(k): v if type(v) is float else clean(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [clean(item) for item in tree]
    if isinstance(tree, str):
        return printable(tree).replace("\n", r"\n").replace("\t", r"\t")
    if isinstance(tree, int) and not -(2**63) <= tree < 2**63:
        return hex(tree)
    return tree


_key = lru_cache(4096)(one_line)  # the same in every row


def _check_size(value: dict[str, Any]) -> None:
    level, keys = [value], 0
    for _ in range(_DEPTH):
        keys += sum(len(item) for item in level if isinstance(item, dict))
        if keys > _KEYS:
            raise ValueError(f"it has more than {_KEYS:,} keys")
        items = (x.values() if isinstance(x, dict) else x for x in level)
        level = [i for i in chain.from_iterable(items) if isinstance(i, dict | list)]
    if level:
        raise ValueError(f"it has more than {_DEPTH} levels")
