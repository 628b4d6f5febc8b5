"""Files of a run folder: JSON values written atomically, metrics row by row."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from runner.errors import ConfigError, Unwritable

FILES = "files"  # the folder of what callbacks leave: <name>/<step>.<ending>
STATE = "state.safetensors"  # of a run that has finished

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
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return to_json(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError(f"a {type(value).__name__} can't be recorded as JSON: {value!r}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; raises what `to_json` and `write_bytes` raise."""
    write_bytes(path, _text(value))


def mark_preempted(folder: Path) -> None:
    """Mark the folder of a run that a signal ends before it has begun to record."""
    rows = folder / "metrics.jsonl"
    if not rows.exists() or not rows.stat().st_size:
        write_json(folder / "summary.json", {"status": "preempted"})


def overwrite_json(path: Path, value: Any) -> None:
    """Replace what `path` holds where no other file can be written.

    It is one write, into the space that the file has already.

    Raises:
      OSError: the file isn't there, can't be written or has too little space.
    """
    data = _text(value)
    with path.open("r+b", buffering=0) as file:
        if len(data) > os.fstat(file.fileno()).st_blocks * 512:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        file.write(data)
        file.truncate(len(data))


def _text(value: Any) -> bytes:
    text = json.dumps(to_json(value), indent=2, allow_nan=False)
    return f"{text}\n".encode()


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Report an OSError in the block as what it means: that `path` can't be written.

    Raises:
      Unwritable: which names the file, if the system does.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise Unwritable(error.filename or path, why) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that a reader finds the old file or the new one, never half.

    Raises:
      OSError: the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        # A full disk names no file, and nobody knows the temporary one.
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # it tells what went wrong before
            temporary.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
      FileNotFoundError: there is no such file.
      ConfigError: it holds something else, or can't be read.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else json.dumps(value)[:20]
        raise ConfigError(f"{path} is not a JSON object but {kind}")
    return value


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


def is_locked(folder: Path) -> bool | None:
    """Whether a process has the folder's metrics file open to write rows.

    None on a file system without locks, where nobody knows.
    """
    try:
        # It waits for no pipe, which another program may have put there.
        found = os.open(folder / "metrics.jsonl", os.O_RDONLY | os.O_NONBLOCK)
        with open(found, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


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
        self._path = path
        self._file = path.open("ab", buffering=0)
        try:
            lock(self._file)
            kept = b""
            if path.is_file():
                lines = path.read_bytes().split(b"\n")[:-1][:rows]
                kept = b"".join(line + b"\n" for line in lines)
                self._file.truncate(len(kept))
        except BaseException:
            self._file.close()
            raise
        self._hash, self._bytes = hashlib.sha256(kept), len(kept)

    def write(self, row: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(row, allow_nan=False, default=_plain)
        except ValueError:  # not finite: rare, so only these rows pay for the walk
            text = json.dumps(to_json(row), allow_nan=False)
        line = f"{text}\n".encode()
        try:
            left = memoryview(line)
            while left:  # a disk that is about to be full takes a part
                left = left[self._file.write(left) :]
            if not os.fstat(self._file.fileno()).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "it has been deleted")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._bytes)
            error.filename = str(self._path)
            raise
        self._hash.update(line)
        self._bytes += len(line)

    def written(self) -> dict[str, Any]:
        """The length and the checksum of the rows so far; see `check_rows`."""
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        self._file.close()


def check_rows(path: Path, written: Mapping[str, Any]) -> None:
    """Compare the beginning of a metrics file with what `MetricsFile.written` was.

    Raises:
      ValueError: it isn't the same.
      OSError: it can't be read.
    """
    size = written["bytes"]
    with path.open("rb") as file:
        data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{path} has {len(data)} of the {size} bytes that it had then")
    if hashlib.sha256(data).hexdigest() != written["sha256"]:
        raise ValueError(f"the rows in {path} aren't those that were written then")


def read_metrics(path: Path, size: int | None = None) -> list[dict[str, Any]]:
    """The rows of a metrics file in order, with NaN and infinities as floats again.

    A last line without a newline, as a killed run leaves it, isn't a row.

    Args:
      size: read only so many bytes.

    Raises:
      ValueError: any other line isn't a JSON object; names file and line.
    """
    return list(rows_of(path.read_bytes()[:size], path))


def rows_of(data: bytes, name: object) -> Iterator[dict[str, Any]]:
    """The rows in the contents of a metrics file called `name`: see `read_metrics`."""
    *lines, _torn = data.split(b"\n")
    rows = (_row(line, name, number) for number, line in enumerate(lines, start=1))
    is_finite = not any(f'"{name}"'.encode() in data for name in NON_FINITE)
    return rows if is_finite else map(from_json, rows)


_decode = json.JSONDecoder().raw_decode  # in two thirds of the time of json.loads


def _row(line: bytes, name: object, number: int) -> dict[str, Any]:
    try:
        text = line.strip().decode()
        row, end = _decode(text)
        if end == len(text) and isinstance(row, dict):
            return row
    except (ValueError, RecursionError):
        pass
    text = line.decode(errors="replace")
    shown = f"{text[:80]!r}" + "..." * (len(text) > 80)
    raise ValueError(f"{name}:{number}: not a JSON object: {shown}")


def from_json(value: Any) -> Any:
    """A value as it was before `to_json`: with NaN and infinities as floats again."""
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {k: v if type(v) is float else from_json(v) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    # Beside other text it is text too, as among a table's null_values.
    if any(isinstance(item, str) and item not in NON_FINITE for item in value):
        return [item if isinstance(item, str) else from_json(item) for item in value]
    return [from_json(item) for item in value]
