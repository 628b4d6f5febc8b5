"""Starts the processes that mirror runs, watches them, and waits for them at the end.

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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.record.files import write_bytes
from runner.record.mirrors.follow import Spec, target
from runner.record.mirrors.process import ASKED, SAID, state

# Of a process, for all its mirrors, when runs end. Half a second more shows which of
# the processes that mirror are stopped: less than 10 in all.
WAIT_SECONDS = 9.0
# With as many runs for each, a process of W&B's saves as much time as its imports take.
_RUNS_EACH = 32
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
        self._places: dict[str, Path] = {}

    def start(self) -> None:
        """Begin. The folder has its config.json, and a summary.json that is running."""
        if not self._trackers:
            return
        with _report():
            _helpers.start(self._trackers, 1)
            for name, spec in self._trackers.items():
                self._places[name] = _helpers.add(self._folder, spec)

    def wait(self) -> None:
        """Wait for its end, as long as this process has any time for that."""
        if late := _helpers.wait(self._places.values()):
            _helpers.has_said_so = True
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


def prepare(
    trackers: Mapping[str, Spec], config: Mapping[str, Any], runs: int = 1
) -> None:
    """Start the process that a run needs, or those of several: imports take long."""
    if wanted := _wanted(trackers, config):
        with _report():
            _helpers.start(wanted, runs)


def _wanted(trackers: Mapping[str, Spec], config: Mapping[str, Any]) -> dict[str, Spec]:
    return {k: spec for k, spec in trackers.items() if target(spec).is_wanted(config)}


class _Helpers(list["_Helper"]):
    """The processes that mirror the runs of this one, and its patience with them.

    Attributes:
      has_said_so: that it doesn't wait any longer.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._waited = 0.0
        self._lines: dict[str, _Helper] = {}  # and who has said them first
        self.has_said_so = False

    def start(self, trackers: Mapping[str, Spec], runs: int) -> None:
        """Have as many as `runs` are worth, one at least."""
        targets = [target(spec) for spec in trackers.values()]
        most = min(max(kind.processes for kind in targets), os.cpu_count() or 1)
        wanted = max(1, min(most, runs // _RUNS_EACH))
        names = [spec["_target_"] for spec in trackers.values()]
        with self._lock:
            if not self:
                atexit.register(self._close)
            while len(self._live()) < wanted:
                self.append(_Helper(names, self._show))

    def _live(self) -> "list[_Helper]":
        return [helper for helper in self if not helper.has_ended]

    def add(self, folder: Path, spec: Spec) -> Path:
        """Have a run mirrored; returns where the state of its mirror will be."""
        with self._lock:
            able = (self._live() or self[-1:])[: target(spec).processes]
            return min(able, key=lambda helper: len(helper.places)).add(folder, spec)

    def wait(self, places: Iterable[Path]) -> list[Path]:
        """Wait for the end of mirrors; returns the places of those that are late."""
        begun, pending = time.monotonic(), list(places)
        while pending := [place for place in pending if not state(place).get("over")]:
            hopeful = {place for helper in self._live() for place in helper.places}
            is_late = time.monotonic() - begun > WAIT_SECONDS - self._waited
            if is_late or hopeful.isdisjoint(pending):
                break
            time.sleep(0.01)
        self._waited = min(self._waited + time.monotonic() - begun, WAIT_SECONDS)
        for helper in self:
            helper.look()
        return pending

    def _show(self, helper: "_Helper", line: str) -> None:
        """Print what one has said, unless another has said it before."""
        if self._lines.setdefault(line, helper) is helper:
            print(line, end="", file=sys.stderr)

    def _close(self) -> None:
        """Wait, as this process ends; the others do by themselves when done."""
        late = self.wait(place for helper in self for place in helper.places)
        for helper in self:
            helper.is_closed = True
        if late:
            if not self.has_said_so:
                _say("no answer in time, and continuing without them")
            before = [helper.look() for helper in self]
            time.sleep(0.5)
            for helper, looked in zip(self, before, strict=True):
                if helper.look() == looked:
                    helper.kill()  # it is stopped
        for helper in self:
            helper.leave()


class _Helper:
    """This process's end of one that mirrors.

    Args:
      trackers: the names of their classes.
      show: called with each line that it says.

    Attributes:
      places: where the state of each mirror is.
      is_closed: it is to be watched no longer.
    """

    def __init__(self, trackers: list[str], show: "Callable[[_Helper, str], None]"):
        self.folder = Path(tempfile.mkdtemp(prefix="runner-mirror-"))
        self._trackers = trackers
        self._show = show
        self._lock = threading.Lock()
        self.places: list[Path] = []
        self._restarts_left = _RESTARTS
        self.is_closed = False
        self._start()
        self._said = (self.folder / SAID).open(errors="replace")
        threading.Thread(target=self._watch, name="runner-mirror", daemon=True).start()

    def _start(self) -> None:
        paths = [os.environ.get("PYTHONPATH", ""), *map(os.path.abspath, sys.path)]
        with (self.folder / SAID).open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runner.record.mirrors.process"]
                + [str(self.folder), str(os.getpid()), *self._trackers],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
                # Ctrl-C is for the process that trains.
                start_new_session=True,
            )

    def look(self) -> int:
        """Show what it has said since; returns when it last looked.

        No clock is compared with another.
        """
        looked = 0
        with self._lock, contextlib.suppress(OSError, ValueError):
            looked = os.fstat(self._said.fileno()).st_mtime_ns
            for line in self._said:
                self._show(self, line)
        return looked

    def add(self, folder: Path, spec: Spec) -> Path:
        """See `_Helpers.add`, which is one thread's at a time."""
        place = self.folder / f"{len(self.places)}.json"
        asked = json.dumps([str(folder.absolute()), spec]).encode()
        write_bytes(place.with_suffix(ASKED), asked)
        self.places.append(place)
        return place

    @property
    def has_ended(self) -> bool:
        return not self._restarts_left and self.process.poll() is not None

    def _watch(self) -> None:
        """Start it again when it has died, or does nothing any more."""
        seen, since = 0, time.monotonic()
        while self._restarts_left:
            time.sleep(0.2)
            looked = self.look()
            if self.is_closed:
                return
            if looked != seen:
                seen, since = looked, time.monotonic()
            stalled = time.monotonic() - since > _STALLED_SECONDS
            if self.process.poll() is None and not stalled:
                continue
            self.kill()
            self._restarts_left -= 1
            since = time.monotonic()
            if self._restarts_left:
                with _report():
                    self._start()
        _say("their process has ended")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        """Let it end by itself, if it hasn't."""
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


_helpers = _Helpers()
