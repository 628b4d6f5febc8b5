"""The W&B mirror of a run, kept by a process of its own.

W&B's client takes a second to import and as much of Python's time as training a small
model does, so neither happens in the process that trains. This module, run with
`python -m`, is the other process: it mirrors all runs of the one that trains.
"""

import atexit
import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from runner import signals
from runner.record.mirrors.wandb import (
    WandbFields,
    WandbRun,
    finish_limit,
    wanted_mode,
)

LEAVING_SECONDS = 1.0
KILLED = 137  # as a shell reports it
_names = itertools.count()


class WandbMirror:
    """One W&B run. Only `finish` waits, and nothing raises.

    Attributes:
      name: distinguishes the mirrors of a process.
      mode: the actual mode; "disabled" until it has started.
      folder: W&B's own folder of the run.
      url: its page, if it is online.
    """

    def __init__(self, settings: WandbFields):
        self.name = next(_names)
        self._settings = settings
        self._limit: float | None = None
        self._client: _Client | None = None
        self._finished = threading.Event()
        self.mode = "disabled"
        self.folder: Path | None = None
        self.url: str | None = None

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin the run in the background. `config` is logged without its secrets."""
        if wanted_mode(self._settings) == "disabled":
            return
        folder = self._settings.dir
        settings = self._settings._replace(dir=folder and folder.absolute())
        variables = {k: v for k, v in os.environ.items() if k.startswith("WANDB")}
        self._limit = finish_limit()
        self._client = _client()
        self._client.send(self, "start", settings, dict(config), variables)

    def log(self, row: Mapping[str, Any]) -> None:
        """Pass a row on. The caller must not change it afterwards."""
        if self._client:
            self._client.send(self, "log", row)

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """End the run; `exit_code` 0 means it went well.

        Waits as long as the timeouts of W&B itself allow, and a few seconds.
        """
        if not self._client:
            return
        self._client.send(self, "finish", exit_code, dict(summary))
        limit = self._limit and self._limit + 5  # the process reports its own first
        if not self._finished.wait(limit):
            print(f"W&B: no answer after {limit:.0f} s; continuing", file=sys.stderr)
        self._client.forget(self)

    def leave(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """End the run without waiting: this process is about to end."""
        client, self._client = self._client, None  # nothing comes after it
        if client:
            client.send(self, "finish", exit_code, dict(summary))

    def _update(
        self, mode: str, folder: Path | None, url: str | None, over: bool
    ) -> None:
        self.mode, self.folder, self.url = mode, folder, url
        if over:
            self._finished.set()


def prepare(settings: WandbFields) -> None:
    """Start the process that a run with `settings` needs: its imports take long."""
    if wanted_mode(settings) != "disabled":
        _client()


class _Client:
    """This end of the pipes to the process that keeps the mirrors."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.record.mirrors.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the process that trains, which tells this one what to do.
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout
        self._out, self._in = self.process.stdin, self.process.stdout
        self._lock = threading.Lock()
        self._mirrors: dict[int, WandbMirror] = {}
        self._messages: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self.is_alive = True
        for work in (self._listen, self._deliver):
            threading.Thread(target=work, name="runner-mirror", daemon=True).start()
        atexit.register(self._close)
        signals.last_word(self, self._leave)

    def send(self, mirror: WandbMirror, *message: Any) -> None:
        with self._lock:
            self._mirrors[mirror.name] = mirror
            if not self.is_alive:  # nothing would read the queue
                mirror._finished.set()
                return
        self._messages.put((mirror.name, *message))

    def _deliver(self) -> None:
        # In a thread: a pipe that is full must not hold up training.
        with contextlib.suppress(OSError, ValueError):  # gone, or closed at exit
            while True:
                pickle.dump(self._messages.get(), self._out)
                if self._messages.empty():
                    self._out.flush()

    def forget(self, mirror: WandbMirror) -> None:
        with self._lock:
            self._mirrors.pop(mirror.name, None)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                name, *state = pickle.load(self._in)
                mirror = self._mirrors.get(name)
                if mirror:  # it may have given up waiting
                    mirror._update(*state)
        with self._lock:
            self.is_alive = False
            unfinished = list(self._mirrors.values())
        if unfinished:
            print(
                "W&B: its process has ended (the run folder has everything)",
                file=sys.stderr,
            )
        for mirror in unfinished:
            mirror._finished.set()

    def _leave(self, error: BaseException) -> None:
        """Let what was sent arrive; the process then ends by itself."""
        deadline = time.monotonic() + LEAVING_SECONDS
        for mirror in list(self._mirrors.values()):
            mirror._finished.wait(max(deadline - time.monotonic(), 0))
        if not self._mirrors:
            self.process.kill()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._out.close()


_starting = threading.Lock()
_clients: list[_Client] = []


def _client() -> _Client:
    """The live client, or a new one."""
    with _starting:
        if not _clients or not _clients[-1].is_alive:
            _clients.append(_Client())
        return _clients[-1]


def serve(messages: IO[bytes], answers: IO[bytes]) -> None:
    """Carry out `messages` until they end, which they do when the other process ends.

    If it was killed, runs that are still open are finished as failed.
    """
    runs: dict[int, WandbRun] = {}
    lock = threading.Lock()

    def report(name: int, over: bool) -> None:
        run = runs[name]
        with lock, contextlib.suppress(OSError):
            pickle.dump((name, run.mode, run.folder, run.url, over), answers)
            answers.flush()

    def finish(name: int, arguments: list[Any]) -> None:
        runs[name].finish(*arguments)
        report(name, over=True)
        del runs[name]

    while True:
        try:
            name, what, *arguments = pickle.load(messages)
        except (EOFError, OSError, pickle.UnpicklingError):
            break
        if what == "start":
            settings, config, variables = arguments
            os.environ.update(variables)
            runs[name] = WandbRun(settings)
            runs[name].start(config, lambda name=name: report(name, over=False))
        elif what == "log":
            runs[name].log(*arguments)
        else:  # it waits, and others continue meanwhile
            threading.Thread(target=finish, args=(name, arguments), daemon=True).start()
    with ThreadPoolExecutor(32) as pool:
        for run in list(runs.values()):
            pool.submit(run.finish, KILLED, {})


def main() -> None:
    # W&B and what it starts may print; the pipe is for answers only.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # A scheduler signals all processes; this one ends when its pipe does.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_import, daemon=True).start()
    serve(sys.stdin.buffer, answers)
    os._exit(0)  # whatever a thread of W&B may still wait for


def _import() -> None:
    """Import it before the first run needs it, which then reports any failure."""
    with contextlib.suppress(Exception):
        import wandb  # noqa: F401


if __name__ == "__main__":
    main()
