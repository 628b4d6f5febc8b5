"""The process that mirrors all runs of the one that trains.

A tracker's client takes a second to import and as much of Python's time as training a
small model does, so neither happens in the process that trains. This module, run with
`python -m`, is the other process. It is told which folders there are, reads them, and
says in a file for each how far it is: `<number>.<tracker>.json`.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from runner.record.files import write_json
from runner.record.mirrors.follow import Spec, Trainer, copy, one_line
from runner.record.mirrors.tracker import Source, Tracker, source

RUNS = "runs.jsonl"
# What it prints, which isn't the trainer's, or a pipe would stay open. Whenever it has
# looked, it touches this file.
SAID = "said"
LEFT_ALONE_SECONDS = 90.0  # W&B's own timeouts, which end before
# At least so often; with many runs less often, for each costs some time.
_LOOK_SECONDS, _LOOK_SECONDS_A_RUN = 0.05, 0.002


class _Mirrors:
    """The mirrors of the runs that are listed in `folder`, a thread for each."""

    def __init__(self, folder: Path, trainer: int, imports: threading.Thread):
        self._folder = folder
        self._imports = imports
        self._trainer = trainer
        self._said: set[str] = set()
        self._list = (folder / RUNS).open("rb")
        self._torn = b""  # the beginning of a line of it
        self._count = 0
        self.threads: list[threading.Thread] = []  # that are alive

    def look(self) -> None:
        """Begin to mirror what is new in the list."""
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        *lines, self._torn = (self._torn + self._list.read()).split(b"\n")
        for line in lines:
            run = json.loads(line)
            for name, spec in run["trackers"].items():
                place = self._folder / f"{self._count}.{name}.json"
                if not is_over(place):
                    given = Path(run["folder"]), spec, place
                    thread = threading.Thread(target=self._mirror, args=given)
                    thread.daemon = True
                    thread.start()
                    self.threads.append(thread)
            self._count += 1

    def _mirror(self, folder: Path, spec: Spec, place: Path) -> None:
        shown = None

        def tell(tracker: Tracker, over: bool = False) -> None:
            nonlocal shown
            state = {
                "over": over,
                "where": tracker.where,
                "problem": tracker.problem,
            }
            if state != shown:
                shown = state
                with contextlib.suppress(OSError):
                    write_json(place, state)

        def pause(tracker: Tracker) -> None:
            tell(tracker)
            time.sleep(_LOOK_SECONDS + _LOOK_SECONDS_A_RUN * len(self.threads))

        self._imports.join()  # of two threads, one may get a module half made
        tracker = Tracker(Source(folder, {}, {}))
        try:
            run = source(folder, self._trainer)
            alive = Trainer(self._trainer, folder).is_alive
            tracker = copy(spec, run, alive, self._say, pause)
        except Exception as error:
            tracker.problem = f"mirroring failed: {one_line(error)}"
            self._say(tracker.problem)
        tell(tracker, over=True)

    def _say(self, message: str) -> None:
        # All runs fail alike; the first one says it.
        if message not in self._said:
            self._said.add(message)
            text = f"{message} (the run folder has everything)"
            print(text, file=sys.stderr, flush=True)


def is_over(place: Path) -> bool:
    return state(place).get("over", False)


def state(place: Path) -> dict[str, Any]:
    """What the process says of a mirror; nothing so far is {}."""
    try:
        return json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}


def main() -> None:
    folder, trainer, *packages = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    # A scheduler signals all processes; this one ends when the run does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    imports = threading.Thread(target=_import, args=(packages,), daemon=True)
    imports.start()
    mirrors = _Mirrors(folder, trainer, imports)
    left: float | None = None
    with contextlib.suppress(OSError):  # the trainer has ended and removed it
        while left is None or time.monotonic() - left < LEFT_ALONE_SECONDS:
            if os.getppid() != trainer:
                left = left or time.monotonic()
            mirrors.look()
            if left is not None and not mirrors.threads:
                break
            os.utime(folder / SAID)
            time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # whatever a thread of a tracker may still wait for


def _import(packages: list[str]) -> None:
    """Import them before the first run needs them, which then reports any failure."""
    for package in packages:
        with contextlib.suppress(Exception):
            importlib.import_module(package)


if __name__ == "__main__":
    main()
