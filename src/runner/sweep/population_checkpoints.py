"""Checkpoints of whole populations, and how those of a killed sweep are resumed."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.core.shapes import start_shapes
from runner.core.snapshot import Start
from runner.errors import ConfigError, TrainingStopped
from runner.job import restore
from runner.job.checkpoint import Checkpoints
from runner.job.identity import fingerprint
from runner.job.prepared import checkpoint_record
from runner.job.resume import continued
from runner.record.files import check_rows, read_object
from runner.sweep.kept_states import KeptStates
from runner.sweep.member import Member


class Saved(NamedTuple):
    """A population to resume.

    Attributes:
      names: the fingerprints of all members that it had, by their index.
      size: of the population, including copies that fill it up.
      start: the checkpoint.
      active: by its index, each member that continues.
    """

    names: list[str]
    size: int
    start: Start
    active: dict[int, Member]


def checkpoints_of(
    sweep: Path,
    names: Sequence[str],
    size: int,
    active: Mapping[int, Member],
    start: Start | None,
    kept: KeptStates,
) -> Checkpoints:
    """The checkpoints of a population, in the folder of its sweep.

    Args:
      names: the fingerprints of its members.
      size: with the copies that fill it up.
      active: by its index, each unfinished member; read at each save.
      start: the one that the population resumes from.
      kept: the best states of its members.
    """
    first = next(iter(active.values()))

    def describe(step: int) -> dict[str, Any]:
        return checkpoint_record(first.run, step) | {
            "members": list(names),
            "size": size,
            "going": sorted(active),
            "best_records": None if kept.best is None else kept.records,
            "members_rows": {i: m.prepared.recorder.rows() for i, m in active.items()},
            "wall_seconds": first.prepared.recorder.state()["wall_seconds"],
        }

    folder = sweep / restore.FOLDER / fingerprint({"members": list(names)})
    settings = first.prepared.checkpoints.settings
    return Checkpoints(folder, settings, "", describe, start)


def left_over(
    sweep: Path, members: Iterable[Member]
) -> tuple[list[Saved], list[Member]]:
    """The populations that `members` were in when the sweep was killed.

    A member that ended before its population was saved keeps its ending.

    Returns:
      those populations, and the members that start over.
    """
    folder = sweep / restore.FOLDER
    begun = {m.job.fingerprint: m for m in members if m.prepared.recorder.kept}
    found = []
    paths = folder.iterdir() if begun and folder.is_dir() else []
    # Of a population and the smaller one that it became, the latter has the newest.
    for path in sorted(paths, key=lambda p: (-max(restore.steps(p), default=0), p)):
        saved = _read(path, begun)
        if saved:
            found.append(saved)
    taken = {id(m) for saved in found for m in saved.active.values()}
    restarting = [m for m in members if id(m) not in taken and m.job.error is None]
    return found, restarting


def _read(path: Path, begun: dict[str, Member]) -> Saved | None:
    record = _record(path)
    if record is None:
        return None
    indexed = {i: begun[n] for i, n in enumerate(record["members"]) if n in begun}
    if not indexed:
        return None
    run = next(iter(indexed.values())).run
    target = start_shapes(run.spec, run.values, record["size"])
    if record["best_records"] is not None:
        target = target._replace(best=target)

    def check(record: dict[str, Any]) -> None:
        for index, member in indexed.items():
            if size := _rows(record, index):
                check_rows(member.prepared.recorder.folder / "metrics.jsonl", size)

    try:
        start = restore.newest(path, None, target, run.spec.description, check)
    except ConfigError as error:
        print(f"warning: {error}; {len(indexed)} jobs start over", file=sys.stderr)
        shutil.rmtree(path, ignore_errors=True)
        return None
    active = {i: m for i, m in indexed.items() if i in start.record["going"]}
    for index, member in indexed.items():
        begun.pop(member.job.fingerprint)
        if index not in active:
            _keep_ending(member)
        else:
            # XLA sums in another order than for a single run.
            recorder = member.prepared.recorder
            recorder.provenance["members"] = len(record["members"])
            continued(recorder, start, _rows(start.record, index).get("bytes"))
    if not active:
        shutil.rmtree(path, ignore_errors=True)
        return None
    return Saved(record["members"], record["size"], start, active)


def _record(path: Path) -> dict[str, Any] | None:
    """The record of the newest whole checkpoint in `path`, if there is one."""
    steps, why = restore.steps(path), None
    for step in reversed(steps):
        try:
            record = restore.whole_record(path / str(step))
            if record.keys() >= {"members", "size", "going", "best_records"}:
                return record
            raise ValueError("its record isn't that of a population")
        except (OSError, ValueError) as error:  # `newest` reports each
            why = error
    if why:
        print(f"warning: none of the checkpoints in {path} is whole, so its jobs start "
              f"over: {why}", file=sys.stderr)  # fmt: skip
    return None


def _rows(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Length and checksum of a member's rows; empty in an earlier version's record."""
    return record.get("members_rows", {}).get(str(index), {}).get("rows", {})


def _keep_ending(member: Member) -> None:
    path = member.prepared.recorder.folder / "summary.json"
    try:
        summary = read_object(path)
        member.job.error = TrainingStopped(summary.get("error", summary["status"]))
    except (OSError, KeyError) as error:
        raise ConfigError(f"{path} doesn't say how the job ended: {error}") from error
    member.ended(member.job)
