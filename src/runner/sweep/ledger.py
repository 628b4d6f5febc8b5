"""sweep.json: what a sweep's jobs are and how far each of them is."""

import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from runner.errors import ConfigError
from runner.record.files import lock, to_json, write_json
from runner.record.secrets import scrub, scrub_command
from runner.trees import differences

State = Literal["pending", "running", "done", "failed"]
WRITE_SECONDS = (
    1.0  # at most one ordinary write in so many: a job's folder is the truth
)


class Entry(TypedDict):
    """One job: its folder within the sweep's and, when done, its objective's value."""

    name: str
    folder: str
    overrides: list[str]
    state: State
    result: Any  # a number; JSON has no NaN, so that is text in the file


class Ledger:
    """The ledger of one sweep folder, open for as long as a process works on it.

    Jobs are known by `fingerprint`, a hash of their configuration. What an earlier
    process left unfinished is pending again, unless its folder says it is done.

    Args:
      folder: the sweep's; made if need be.
      base: the configuration that the jobs have in common.
      swept: the keys in which they differ.

    Raises:
      ConfigError: another process works on the sweep, its base is another one, or
        sweep.json can't be read.
    """

    def __init__(self, folder: Path, base: Mapping[str, Any], swept: Iterable[str]):
        self.folder = folder
        self._path = folder / "sweep.json"
        self._base = to_json(scrub(base))
        self._swept = sorted(swept)
        self._written = 0.0
        self.jobs: dict[str, Entry] = {}

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
            self._take_up()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Note that nothing runs any more, and let others in."""
        if self._lock.closed:
            return
        for entry in self.jobs.values():
            if entry["state"] == "running":
                entry["state"] = "pending"
        self.write()
        self._lock.close()

    def add(self, fingerprint: str, entry: Entry) -> Entry:
        """The entry of a job, an earlier process's if it has one."""
        return self.jobs.setdefault(fingerprint, entry)

    def set(self, fingerprint: str, state: State, result: float | None = None) -> None:
        """Note how far a job is, on disk within WRITE_SECONDS or with the next note."""
        self.jobs[fingerprint].update(state=state, result=result)
        if time.monotonic() - self._written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write sweep.json now."""
        self._written = time.monotonic()
        command = shlex.join(["python", "-m", "runner", *scrub_command(sys.argv)[1:]])
        write_json(
            self._path,
            {
                "command": command,
                "base": self._base,
                "swept": self._swept,
                "jobs": {k: scrub(v) for k, v in self.jobs.items()},
            },
        )

    def _take_up(self) -> None:
        if not self._path.exists():
            return
        before = read(self._path)
        self._swept = sorted({*self._swept, *before["swept"]})
        changed = differences(before["base"], self._base, self._swept.__contains__)
        if changed:
            told = "; ".join(f"{k}={old}, now {new}" for k, old, new in changed[:5])
            raise ConfigError(
                f"{self._path} is of a sweep with {told}. One sweep has one base "
                "configuration: give hydra.sweep.dir another folder, or take the "
                "change back"
            )
        self.jobs = before["jobs"]
        for entry in self.jobs.values():
            if entry["state"] not in ("done", "failed"):
                entry["state"] = "pending"


def read(path: Path) -> dict[str, Any]:
    """A sweep.json.

    Raises:
      ConfigError: it isn't one.
    """
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
        if not ledger.keys() >= {"base", "swept", "jobs"}:
            raise ValueError("its keys are others")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} can't be read as a sweep's ledger: {error}. Without it the sweep "
            "starts anew, in another hydra.sweep.dir"
        ) from error
    return ledger


def unfinished(folder: Path, base: Mapping[str, Any], jobs: Iterable[str]) -> bool:
    """Whether `folder` has a sweep of just these jobs that ended before its time."""
    try:
        ledger = read(folder / "sweep.json")
    except ConfigError:
        return False
    states = {entry["state"] for entry in ledger["jobs"].values()}
    same = set(ledger["jobs"]) == set(jobs)
    left = bool(states & {"pending", "running"})
    return same and left and ledger["base"] == to_json(scrub(base))
