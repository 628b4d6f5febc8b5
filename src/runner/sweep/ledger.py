"""sweep.json: the jobs of a sweep and their states."""

import contextlib
import hashlib
import os
import re
import sys
import time
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

from runner import signals
from runner.errors import ConfigError, Unwritable
from runner.record.files import lock, read_object, to_json, write_json, writing
from runner.record.provenance import command_line
from runner.record.secrets import scrub
from runner.sweep.job import inside
from runner.trees import differences, flatten

JobState = Literal["pending", "running", "done", "failed"]
# At most one ordinary write in this time: a job's folder is the truth. Each has all
# jobs, so a large ledger is written less often: for this share of the time at most.
WRITE_SECONDS = 1.0
WRITE_SHARE = 0.01
_VARIABLE = re.compile(r"\$\{oc\.env:\s*([^,}\s]+)")


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
        self._swept = sorted(swept)
        self._base = recorded(base, self._swept)
        self._next_write = 0.0
        self._scrubbed: dict[str, dict[str, Any]] = {}
        self._taken: set[str] = set()  # the folders of an earlier process' jobs
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Unwritable as error:
            if kind is None:
                raise
            print(f"error: {error}", file=sys.stderr)

    def close(self) -> None:
        """Record that nothing runs any more, and release the lock."""
        signals.last_word(self, None)
        if self._lock.closed:
            return
        for entry in self.jobs.values():
            if entry["state"] == "running":
                entry["state"] = "pending"
        try:
            self.write()
        finally:
            self._lock.close()

    def _leave(self, error: BaseException) -> None:
        signals.say(f"the same command continues {self.folder}")
        self.close()

    def add(self, fingerprint: str, entry: LedgerRow) -> LedgerRow:
        """Add a job's row unless an earlier process did; return its row.

        Raises:
          ConfigError: its folder is that of a job which an earlier process added.
        """
        if fingerprint not in self.jobs:
            if entry["folder"] in self._taken:
                raise ConfigError(
                    f"{self.folder / entry['folder']} is the folder of another job of "
                    "this sweep: give hydra.sweep.subdir more of what differs, as "
                    "${hydra.job.override_dirname} has, or hydra.sweep.dir another "
                    "folder"
                )
            self.jobs[fingerprint] = entry
        return self.jobs[fingerprint]

    def set(
        self, fingerprint: str, state: JobState, result: float | None = None
    ) -> None:
        """Set a job's state, written with the next one if a write was just made.

        Where it can't be written, `close` says so: training needs no ledger.
        """
        self.jobs[fingerprint].update(state=state, result=result)
        if time.monotonic() > self._next_write:
            with contextlib.suppress(Unwritable):
                self.write()

    def write(self) -> None:
        """Write sweep.json now.

        Raises:
          Unwritable: the disk is full or the folder can't be written. All that is done
            is in the folders of the jobs.
        """
        started = time.monotonic()
        ledger = {
            "command": command_line(),
            "base": self._base,
            "swept": self._swept,
            "jobs": {name: self._shown(name) for name in self.jobs},
        }
        try:
            with writing(self._path):
                write_json(self._path, ledger)
        except Unwritable as error:
            error.safe = (
                "What is done is safe in the folders of the jobs: the same command "
                "continues the sweep"
            )
            raise
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
        base = scrub(before["base"])  # an earlier version left more of it
        then, now = (tree.get("environment", {}) for tree in (base, self._base))
        # What only one of them reads is read by a key that the other sweeps.
        old, new = (
            tree | {"environment": {name: digests[name] for name in then.keys() & now}}
            for tree, digests in ((base, then), (self._base, now))
        )
        changed = differences(old, new, self._swept.__contains__)
        if changed:
            text = "; ".join(f"{k}={old}, now {new}" for k, old, new in changed[:5])
            raise ConfigError(
                f"{self._path} belongs to a sweep with {text}. One sweep has one base "
                "configuration: give hydra.sweep.dir another folder, or undo the change"
            )
        self.jobs = before["jobs"]
        self._taken = {entry["folder"] for entry in self.jobs.values()}
        for entry in self.jobs.values():
            if entry["state"] not in ("done", "failed"):
                entry["state"] = "pending"


def recorded(base: Mapping[str, Any], swept: Collection[str] = ()) -> dict[str, Any]:
    """`base` as sweep.json has it: without secrets, but with what it refers to.

    Of an environment variable it has a digest, too short to find the value by. Those
    that only `swept` keys read don't count.
    """
    texts = [
        str(value)
        for key, value in flatten(base).items()
        if not any(f"{key}.".startswith(f"{name}.") for name in swept)
    ]
    names = sorted({name for text in texts for name in _VARIABLE.findall(text)})
    given = {name: os.environ.get(name) for name in names}
    digests = {
        name: None if text is None else hashlib.sha256(text.encode()).hexdigest()[:6]
        for name, text in given.items()
    }
    return to_json(scrub(base)) | ({"environment": digests} if digests else {})


def read(path: Path) -> dict[str, Any]:
    """Read a sweep.json.

    Raises:
      ConfigError: it isn't one, or gives a job a folder that isn't the sweep's.
    """
    try:
        ledger = read_object(path)
        _check(ledger, path.parent)
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(
            f"{path} can't be read as a sweep's ledger: {error}. To start over, set "
            "hydra.sweep.dir to another folder"
        ) from error
    return ledger


def swept_in(folder: Path) -> list[str]:
    """The keys that the sweep in `folder` has varied so far; none if there is none.

    Raises:
      ConfigError: its ledger can't be read.
    """
    path = folder / "sweep.json"
    return read(path)["swept"] if path.exists() else []


def _check(ledger: Mapping[str, Any], folder: Path) -> None:
    """Check the shape of a ledger.

    Raises:
      ConfigError, ValueError: it is of another one.
    """
    base, swept, jobs = (ledger.get(key) for key in ("base", "swept", "jobs"))
    if not isinstance(base, dict):
        raise ValueError("base isn't an object")
    if not (isinstance(swept, list) and all(isinstance(key, str) for key in swept)):
        raise ValueError("swept isn't a list of keys")
    if not isinstance(jobs, dict):
        raise ValueError("jobs isn't an object")
    root, taken = folder.resolve(), set()
    for name, row in jobs.items():
        if not _is_row(row):
            raise ValueError(f"jobs.{name} isn't the row of a job")
        taken.add(inside(root, row["folder"]))
    if len(taken) < len(jobs):
        raise ValueError("two jobs have one folder")


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() >= LedgerRow.__annotations__.keys()
        and all(isinstance(row[key], str) for key in ("name", "folder"))
        and isinstance(row["overrides"], list)
        and all(isinstance(override, str) for override in row["overrides"])
        and row["state"] in typing.get_args(JobState)
    )


def unfinished(folder: Path, base: Mapping[str, Any], jobs: Iterable[str]) -> bool:
    """Whether `folder` has a sweep of just these jobs that hasn't finished."""
    try:
        ledger = read(folder / "sweep.json")
    except ConfigError:
        return False
    states = {entry["state"] for entry in ledger["jobs"].values()}
    same = set(ledger["jobs"]) == set(jobs)
    has_unfinished = bool(states & {"pending", "running"})
    return (
        same
        and has_unfinished
        and scrub(ledger["base"]) == recorded(base, ledger["swept"])
    )
