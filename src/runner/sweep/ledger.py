"""sweep.json: the jobs of a sweep and their states."""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from runner import signals
from runner.errors import ConfigError
from runner.record.files import lock, to_json, write_json
from runner.record.secrets import scrub, scrub_command
from runner.trees import differences

JobState = Literal["pending", "running", "done", "failed"]
# At most one ordinary write in this time: a job's folder is the truth. Each has all
# jobs, so a large ledger is written less often: for this share of the time at most.
WRITE_SECONDS = 1.0
WRITE_SHARE = 0.01


class LedgerRow(TypedDict):
    """One job: its folder within the sweep's and, when done, its objective's value."""

    name: str
    folder: str
    overrides: list[str]
    state: JobState
    result: Any  # a number; JSON has no NaN, so that is text in the file


class Ledger:
    """The ledger of one sweep folder, open for as long as a process works on it.

    Jobs are known by `fingerprint`, a hash of their configuration. What an earlier
    process left unfinished is pending again, unless its folder says it is done.

    Args:
      folder: the sweep's; created if missing.
      base: the configuration that the jobs have in common.
      swept: the keys in which they differ.

    Raises:
      ConfigError: another process works on the sweep, its base differs, or sweep.json
        can't be read.
    """

    def __init__(self, folder: Path, base: Mapping[str, Any], swept: Iterable[str]):
        self.folder = folder
        self._path = folder / "sweep.json"
        self._base = to_json(scrub(base))
        self._swept = sorted(swept)
        self._next_write = 0.0
        self._scrubbed: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, LedgerRow] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".sweep.lock").open("w")
        try:
            lock(self._lock)
        except BlockingIOError:
            self._lock.close()
            raise ConfigError(
                f"another process is running the sweep in {self.folder}; wait for it, "
                "or give hydra.sweep.dir another folder"
            ) from None
        try:
            self._load()
        except BaseException:
            self._lock.close()
            raise
        signals.last_word(self, self._leave)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Record that nothing runs any more, and release the lock."""
        signals.last_word(self, None)
        if self._lock.closed:
            return
        for entry in self.jobs.values():
            if entry["state"] == "running":
                entry["state"] = "pending"
        self.write()
        self._lock.close()

    def _leave(self, error: BaseException) -> None:
        os.write(2, f"the same command continues {self.folder}\n".encode())
        self.close()

    def add(self, fingerprint: str, entry: LedgerRow) -> LedgerRow:
        """Add a job's row unless an earlier process did; return its row."""
        return self.jobs.setdefault(fingerprint, entry)

    def set(
        self, fingerprint: str, state: JobState, result: float | None = None
    ) -> None:
        """Set a job's state, written with the next one if a write was just made."""
        self.jobs[fingerprint].update(state=state, result=result)
        if time.monotonic() > self._next_write:
            self.write()

    def write(self) -> None:
        """Write sweep.json now."""
        started = time.monotonic()
        command = shlex.join(["python", "-m", "runner", *scrub_command(sys.argv)[1:]])
        write_json(
            self._path,
            {
                "command": command,
                "base": self._base,
                "swept": self._swept,
                "jobs": {name: self._shown(name) for name in self.jobs},
            },
        )
        spent = time.monotonic() - started
        self._next_write = started + max(WRITE_SECONDS, spent / WRITE_SHARE)

    def _shown(self, fingerprint: str) -> dict[str, Any]:
        """The row of a job without secrets, which are searched for only once."""
        row = self.jobs[fingerprint]
        shown = self._scrubbed.setdefault(fingerprint, {})
        if not shown:
            shown.update(scrub(row))
        return shown | {"state": row["state"], "result": row["result"]}

    def _load(self) -> None:
        if not self._path.exists():
            return
        before = read(self._path)
        self._swept = sorted({*self._swept, *before["swept"]})
        changed = differences(before["base"], self._base, self._swept.__contains__)
        if changed:
            text = "; ".join(f"{k}={old}, now {new}" for k, old, new in changed[:5])
            raise ConfigError(
                f"{self._path} belongs to a sweep with {text}. One sweep has one base "
                "configuration: give hydra.sweep.dir another folder, or undo the change"
            )
        self.jobs = before["jobs"]
        for entry in self.jobs.values():
            if entry["state"] not in ("done", "failed"):
                entry["state"] = "pending"


def read(path: Path) -> dict[str, Any]:
    """Read a sweep.json.

    Raises:
      ConfigError: it isn't one.
    """
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
        if not ledger.keys() >= {"base", "swept", "jobs"}:
            raise ValueError("it has other keys")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} can't be read as a sweep's ledger: {error}. To start over, set "
            "hydra.sweep.dir to another folder"
        ) from error
    return ledger


def unfinished(folder: Path, base: Mapping[str, Any], jobs: Iterable[str]) -> bool:
    """Whether `folder` has a sweep of just these jobs that hasn't finished."""
    try:
        ledger = read(folder / "sweep.json")
    except ConfigError:
        return False
    states = {entry["state"] for entry in ledger["jobs"].values()}
    same = set(ledger["jobs"]) == set(jobs)
    has_unfinished = bool(states & {"pending", "running"})
    return same and has_unfinished and ledger["base"] == to_json(scrub(base))
