"""Starts the process that mirrors runs, watches it, and waits for it at the end.

It only leaves files that say what is to be mirrored, so nothing that happens there can
hold up training. What isn't mirrored in the end, `python -m runner.mirror` brings.
"""

import atexit
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.record.files import write_bytes
from runner.record.mirrors.follow import Spec, target
from runner.record.mirrors.process import ASKED, SAID, state

# Of a process, for all its mirrors, when runs end. Half a second more shows whether the
# process that mirrors is stopped: less than 10 in all.
WAIT_SECONDS = 9.0
_STALLED_SECONDS = 10.0
_RESTARTS = 3  # and then it is given up


class Mirror:
    """The mirrors of one run. Only `wait` waits, and nothing raises.

    Args:
      folder: the run's.
      trackers: those that get a copy, by name.
      config: the run's, which may want none of them.
    """

    def __init__(
        self, folder: Path, trackers: Mapping[str, Spec], config: Mapping[str, Any]
    ):
        self._folder = folder
        self._trackers = _wanted(trackers, config)
        self._labels = {k: target(v).label or k for k, v in self._trackers.items()}
        self._helper: _Helper | None = None
        self._places: dict[str, Path] = {}

    def start(self) -> None:
        """Begin. The folder has its config.json, and a summary.json that is running."""
        if not self._trackers:
            return
        with _report():
            self._helper = _helper(self._trackers)
            for name, spec in self._trackers.items():
                self._places[name] = self._helper.add(self._folder, spec)

    def wait(self) -> None:
        """Wait for its end, as long as this process has any time for that."""
        if self._helper and (late := self._helper.wait(self._places.values())):
            self._helper.has_said_so = True
            names = [name for name, place in self._places.items() if place in late]
            print(
                f"{', '.join(self._labels[name] for name in names)}: no answer in "
                f"time, and continuing without it: {self._command(names)} brings what "
                "is missing",
                file=sys.stderr,
            )

    def locations(self) -> dict[str, str]:
        """Where the copies are, or how to make them whole, by label."""
        states = self.states()
        whole = [k for k, s in states.items() if s.get("over") and not s["problem"]]
        how = f"incomplete: {self._command(states.keys() - whole)}"
        places = {k: states[k]["where"] if k in whole else how for k in states}
        return {self._labels[name]: place for name, place in places.items() if place}

    def states(self) -> dict[str, dict[str, Any]]:
        """What the process says of each mirror: see `process.state`."""
        return {name: state(place) for name, place in self._places.items()}

    def _command(self, names: Iterable[str]) -> str:
        given = ",".join(sorted(names))
        trackers = f"'tracker=[{given}]'" if "," in given else f"tracker={given}"
        return f"python -m runner.mirror {shlex.quote(str(self._folder))} {trackers}"


def prepare(trackers: Mapping[str, Spec], config: Mapping[str, Any]) -> None:
    """Start the process that a run needs: its imports take long."""
    if wanted := _wanted(trackers, config):
        with _report():
            _helper(wanted)


def _wanted(trackers: Mapping[str, Spec], config: Mapping[str, Any]) -> dict[str, Spec]:
    return {k: spec for k, spec in trackers.items() if target(spec).is_wanted(config)}


class _Helper:
    """This process's end of the other."""

    def __init__(self, packages: list[str]):
        self.folder = Path(tempfile.mkdtemp(prefix="runner-mirror-"))
        self._packages = packages
        self._lock = threading.Lock()
        self._places: list[Path] = []  # where each mirror's state is
        self._left = WAIT_SECONDS
        self._restarts_left = _RESTARTS
        self._is_closed = self.has_said_so = False
        self._start()
        self._said = (self.folder / SAID).open(errors="replace")
        threading.Thread(target=self._watch, name="runner-mirror", daemon=True).start()
        atexit.register(self._close)

    def _start(self) -> None:
        paths = [os.environ.get("PYTHONPATH", ""), *map(os.path.abspath, sys.path)]
        with (self.folder / SAID).open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runner.record.mirrors.process"]
                + [str(self.folder), str(os.getpid()), *self._packages],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                # Ctrl-C is for the process that trains.
                start_new_session=True,
            )

    def _look(self) -> int:
        """Print what the other process has said since; returns when it last looked.

        No clock is compared with another.
        """
        looked = 0
        with self._lock, contextlib.suppress(OSError, ValueError):
            looked = os.fstat(self._said.fileno()).st_mtime_ns
            print(self._said.read(), end="", file=sys.stderr)
        return looked

    def add(self, folder: Path, spec: Spec) -> Path:
        """Have a run mirrored; returns where the state of its mirror will be."""
        with self._lock:
            place = self.folder / f"{len(self._places)}.json"
            asked = json.dumps([str(folder.absolute()), spec]).encode()
            write_bytes(place.with_suffix(ASKED), asked)
            self._places.append(place)
        return place

    @property
    def has_ended(self) -> bool:
        return not self._restarts_left and self.process.poll() is not None

    def wait(self, places: Iterable[Path]) -> list[Path]:
        """Wait for the end of mirrors; returns the places of those that are late."""
        begun, pending = time.monotonic(), list(places)
        while pending := [place for place in pending if not state(place).get("over")]:
            if time.monotonic() - begun > self._left or self.has_ended:
                break
            time.sleep(0.01)
        self._left = max(self._left - (time.monotonic() - begun), 0.0)
        self._look()
        return pending

    def _watch(self) -> None:
        """Start it again when it has died, or does nothing any more."""
        seen, since = 0, time.monotonic()
        while self._restarts_left:
            time.sleep(0.2)
            looked = self._look()
            if self._is_closed:
                return
            if looked != seen:
                seen, since = looked, time.monotonic()
            stalled = time.monotonic() - since > _STALLED_SECONDS
            if self.process.poll() is None and not stalled:
                continue
            self.process.kill()
            self.process.wait()
            self._restarts_left -= 1
            since = time.monotonic()
            if self._restarts_left:
                with _report():
                    self._start()
        _say("their process has ended")

    def _close(self) -> None:
        """Wait, as this process ends; the other does by itself when it is done."""
        late = self.wait(self._places)
        self._is_closed = True
        if late:
            if not self.has_said_so:
                _say("no answer in time, and continuing without them")
            before = self._look()
            time.sleep(0.5)
            if self._look() == before:  # it is stopped
                self.process.kill()
                self.process.wait()
        if self.process.poll() is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._said.close()
        self.process.returncode = 0  # of what continues alone, Popen would warn


@contextlib.contextmanager
def _report() -> Any:
    try:
        yield
    except OSError as error:
        _say(f"can't be started: {error}")


def _say(what: str) -> None:
    print(
        f"mirrors: {what} (the run folder has everything; "
        "python -m runner.mirror DIR brings what is missing)",
        file=sys.stderr,
    )


_starting = threading.Lock()
_helpers: list[_Helper] = []


def _helper(trackers: Mapping[str, Spec]) -> _Helper:
    """The live one, or a new one."""
    with _starting:
        if not _helpers or _helpers[-1].has_ended:
            # These take long to import.
            needed = [target(spec).package for spec in trackers.values()]
            _helpers.append(_Helper([package for package in needed if package]))
        return _helpers[-1]
