"""Files of a run folder: JSON values written atomically, metrics row by row."""

import fcntl
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

# The floats that JSON can't express. As null they would look the same, but a loss that
# went to infinity is another finding than a NaN, so they are written as strings.
NON_FINITE = {
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
}


def to_json(value: Any) -> Any:
    """Convert `value` to what strict JSON can hold.

    Tuples become lists; keys and paths become strings; NumPy and JAX scalars become
    Python numbers; floats that aren't finite become "NaN", "Infinity" or "-Infinity".

    Raises:
      TypeError: for anything else; a record never guesses with `str`.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if value is None or isinstance(value, str | int):
        return value
    return to_json(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"a {type(value).__name__} can't be recorded as JSON: {value!r}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader finds the old file or the new one, never half.

    Raises:
      TypeError: see `to_json`.
      OSError: the disk is full or the folder can't be written.
    """
    text = json.dumps(to_json(value), indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that a reader finds the old file or the new one, never half.

    Raises:
      OSError: the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def lock(file: IO) -> None:
    """Lock `file` until it is closed or this process dies.

    Does nothing on a file system without locks.

    Raises:
      BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


class MetricsFile:
    """Appends one JSON object per line, each handed to the system as it is written.

    A killed process loses no row for which `write` has returned. A torn last line that
    an earlier process left is cut off first.

    Args:
      rows: how many of the existing rows to keep; None keeps all.

    Raises:
      BlockingIOError: another process has the file open as a `MetricsFile`.
      OSError: from any method, when the file can't be written.
    """

    def __init__(self, path: Path, rows: int | None = None):
        self._file = path.open("a", buffering=1, encoding="utf-8")
        try:
            lock(self._file)
            if path.is_file():
                lines = path.read_bytes().split(b"\n")[:-1]
                self._file.truncate(sum(len(line) + 1 for line in lines[:rows]))
        except BaseException:
            self._file.close()
            raise

    def write(self, row: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(row, allow_nan=False, default=_plain)
        except ValueError:  # not finite: rare, so only these rows pay for the walk
            text = json.dumps(to_json(row), allow_nan=False)
        self._file.write(text + "\n")

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file in order, with NaN and infinities as floats again.

    A last line without a newline, as a killed run leaves it, isn't a row.

    Raises:
      ValueError: any other line isn't a JSON object; names file and line.
    """
    *lines, _torn = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            items = json.loads(line).items()
        except (ValueError, AttributeError):
            raise ValueError(f"{path}:{number}: not a JSON object: {line!r}") from None
        rows.append(from_json(dict(items)))
    return rows


def from_json(value: Any) -> Any:
    """A value as it was before `to_json`: with NaN and infinities as floats again."""
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value
