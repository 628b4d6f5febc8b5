"""Copies a run folder to a tracker, while the run writes there or at any later time."""

import contextlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.record.files import FILES, rows_of
from runner.record.mirrors.tracker import Source, Tracker
from runner.record.secrets import error_line
from runner.record.untrusted import JSON_BYTES, read_foreign

ATTEMPTS = 3  # at a tracker that fails: each continues with what it has
_CHUNK = 4 << 20  # bytes of rows at a time, about: the memory that a mirror takes
_EXIT_CODES = {"finished": 0, "preempted": 75, "interrupted": 130, "killed": 137}

Spec = Mapping[str, Any]  # a tracker: its class, as `_target_`, and its arguments


def target(spec: Spec) -> type[Tracker]:
    """The class of the tracker that `spec` describes."""
    return pkgutil.resolve_name(spec["_target_"])


def copy(
    spec: Spec,
    source: Source,
    is_alive: Callable[[], bool],
    say: Callable[[str], None],
    pause: Callable[[Tracker], None],
) -> Tracker:
    """Copy the run until it is over. What goes wrong is the tracker's `problem`.

    Args:
      spec: of the tracker.
      is_alive: whether a run that has no end yet may still write.
      say: called with a message, without secrets, when something goes wrong.
      pause: called when all rows so far are copied.
    """
    options = {key: value for key, value in spec.items() if key != "_target_"}
    tracker = Tracker(source)
    for attempt in range(ATTEMPTS):
        stage = "start"
        seen: set[Path] = set()
        try:
            tracker = target(spec)(source, **options)
            has = tracker.open()
            stage = "logging"
            for row in _until_the_end(source.folder, is_alive):
                if row is None:
                    tracker.flush()
                    _add_files(source, tracker, seen)
                    pause(tracker)
                elif row["step"] > has:
                    tracker.row(row)
                    has = row["step"]
            stage = "finishing"
            _add_files(source, tracker, seen)
            tracker.finish(*_ending(source.folder))
            break
        except Exception as error:
            if attempt == ATTEMPTS - 1:
                label = tracker.label or spec["_target_"]
                tracker.problem = f"{stage} failed: {error_line(error)}"
                say(f"{label} {tracker.problem}")
        finally:
            with contextlib.suppress(Exception):  # after an error, which is told
                tracker.close()
    return tracker


def _add_files(source: Source, tracker: Tracker, seen: set[Path]) -> None:
    """Add the files of callbacks that aren't in `seen`, in the order of their steps.

    A foreign folder may have links to what is nobody's business.
    """
    if not source.config.get("callbacks"):
        return
    folder, own = source.folder, source.folder.resolve()
    new = set(folder.glob(f"{FILES}/*/*.*")) - seen
    seen |= new
    found = []
    for path in new:
        step = path.name.partition(".")[0]
        is_own = path.resolve() == own / path.relative_to(folder) and path.is_file()
        if step.isdecimal() and is_own and path.stat().st_size <= JSON_BYTES:
            found.append((int(step), path))
    for step, path in sorted(found):
        tracker.file(path, step)


def _until_the_end(
    folder: Path, is_alive: Callable[[], bool]
) -> Iterator[dict[str, Any] | None]:
    """The rows as they come, None whenever these are all so far, to the run's end."""
    path, position = folder / "metrics.jsonl", 0
    changed, over = None, False
    while True:
        # First: no row comes after that.
        now = _stamp(folder / "summary.json")
        if now != changed:
            over, changed = _summary(folder)["status"] != "running", now
        over = over or not is_alive()
        size = path.stat().st_size if path.exists() else 0
        if size < position:  # a run that was resumed has cut off some
            position = 0
        if size > position:
            with path.open("rb") as file:
                file.seek(position)
                data = b"".join(file.readlines(_CHUNK))
            whole = data.rfind(b"\n") + 1
            yield from rows_of(data[:whole], path)
            position += whole
            if whole:
                continue
        if over:  # a torn row, as a killed run leaves it, is none
            return
        yield None


def _ending(folder: Path) -> tuple[dict[str, Any], int]:
    """The summary of a run that is over, and its exit code."""
    summary = _summary(folder)
    if summary["status"] == "running":
        summary = {"status": "killed"}
    # Earlier versions recorded none.
    code: Any = summary.get("exit_code", _EXIT_CODES.get(summary["status"], 1))
    return summary, code


def _summary(folder: Path) -> dict[str, Any]:
    try:
        return {"status": "running"} | read_foreign(folder / "summary.json")
    except (OSError, ValueError):
        return {"status": "running"}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
