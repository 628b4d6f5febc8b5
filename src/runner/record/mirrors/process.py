"""The process that mirrors all runs of the one that trains.

A tracker's client takes a second to import and as much of Python's time as training a
small model does, so neither happens in the process that trains. This module, run with
`python -m`, is the other process. In the folder that both share it finds what to mirror
(`0.asked`, `1.asked`, ...), and says how far it is (`0.json`, `1.json`, ...).
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.record.files import is_locked, write_json
from runner.record.mirrors.follow import Spec, copy, target
from runner.record.mirrors.tracker import Source, Tracker, source
from runner.record.secrets import error_line
from runner.signals import SIGNALS

ASKED = ".asked"  # the ending of a file with a run folder and the `Spec` of a tracker
# What it prints, which isn't the trainer's, or a pipe would stay open. Whenever it has
# looked, it touches this file.
SAID = "said"
_LEFT_ALONE_SECONDS = 90.0  # W&B's own timeouts, which end before
# At least so often; with many runs less often, for each costs some time.
_LOOK_SECONDS, _LOOK_SECONDS_A_RUN = 0.05, 0.002
_LOCK_SECONDS = 5.0  # between two looks at a lock, which may cost more


class _Mirrors:
    """The mirrors that are asked for in `folder`, a thread for each."""

    def __init__(self, folder: Path, trainer: int, loading: threading.Thread):
        self._folder = folder
        self._loading = loading
        self._trainer = trainer
        self._said: set[str] = set()
        self._count = 0
        self.threads: list[threading.Thread] = []  # that are alive

    def look(self) -> None:
        """Begin to mirror what is newly asked for."""
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        while (asked := self._folder / f"{self._count}{ASKED}").exists():
            self._count += 1
            place = asked.with_suffix(".json")
            if not state(place).get("over"):
                given = *json.loads(asked.read_bytes()), place
                thread = threading.Thread(target=self._mirror, args=given, daemon=True)
                thread.start()
                self.threads.append(thread)

    def _mirror(self, folder: str, spec: Spec, place: Path) -> None:
        shown = None

        def tell(tracker: Tracker, over: bool = False) -> None:
            nonlocal shown
            where, problem = tracker.where, tracker.problem
            state = {"over": over, "where": where, "problem": problem}
            if state != shown:
                shown = state
                with contextlib.suppress(OSError):
                    write_json(place, state)

        def pause(tracker: Tracker) -> None:
            tell(tracker)
            time.sleep(_LOOK_SECONDS + _LOOK_SECONDS_A_RUN * len(self.threads))

        self._loading.join()  # of two threads, one may get a module half made
        tracker = Tracker(Source(Path(folder), {}, {}))
        try:
            run = source(Path(folder), self._trainer)
            tracker = copy(spec, run, self._is_writing(run.folder), self._say, pause)
        except Exception as error:
            tracker.problem = f"mirroring failed: {error_line(error)}"
            self._say(tracker.problem)
        tell(tracker, over=True)

    def _is_writing(self, folder: Path) -> Callable[[], bool]:
        """Whether the trainer still writes a run; it may give one up without a word."""
        asked, is_free = time.monotonic(), False

        def is_writing() -> bool:
            nonlocal asked, is_free
            if os.getppid() != self._trainer or not folder.is_dir():
                return False
            if time.monotonic() - asked < _LOCK_SECONDS:
                return True
            asked, was_free = time.monotonic(), is_free
            is_free = is_locked(folder) is False
            # Twice: its end is written a moment after the lock is released.
            return not (is_free and was_free)

        return is_writing

    def _say(self, message: str) -> None:
        # All runs fail alike; the first one says it.
        if message not in self._said:
            self._said.add(message)
            text = f"{message} (the run folder has everything)"
            print(text, file=sys.stderr, flush=True)


def state(place: Path) -> dict[str, Any]:
    """What the process says of a mirror; nothing so far is {}."""
    try:
        return json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}


def main() -> None:
    folder, trainer, *trackers = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    # A scheduler signals all processes; this one ends when the run does.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    tempfile.tempdir = str(folder)  # so that nothing is left of what W&B leaves there
    loading = threading.Thread(target=_load, args=(trackers,), daemon=True)
    loading.start()
    mirrors = _Mirrors(folder, trainer, loading)
    left: float | None = None
    with contextlib.suppress(OSError):  # the trainer has ended and removed it
        while left is None or time.monotonic() - left < _LEFT_ALONE_SECONDS:
            if os.getppid() != trainer:
                left = left or time.monotonic()
            mirrors.look()
            if left is not None and not mirrors.threads:
                break
            os.utime(folder / SAID)
            time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # whatever a thread of a tracker may still wait for


def _load(trackers: list[str]) -> None:
    for name in trackers:
        with contextlib.suppress(Exception):
            target({"_target_": name}).load()


if __name__ == "__main__":
    main()
