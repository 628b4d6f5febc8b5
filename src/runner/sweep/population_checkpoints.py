"""Populations that are saved as one, and those that a killed sweep has left."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.core.program import Population, start_shapes
from runner.core.snapshot import Start
from runner.errors import ConfigError, TrainingStopped
from runner.job import checkpoint
from runner.job.checkpoint import Checkpoints
from runner.job.identity import fingerprint
from runner.job.resume import continued
from runner.job.run import checkpoint_record
from runner.sweep.member import Member


class Saved(NamedTuple):
    """A population that goes on.

    Attributes:
      names: the fingerprints of all members that it had, by their places in it.
      population: its size, copies that fill it up included, and its longest call.
      start: the checkpoint.
      active: by its index, each member that continues.
    """

    names: list[str]
    population: Population
    start: Start
    active: dict[int, Member]


def checkpoints_of(
    sweep: Path,
    names: Sequence[str],
    size: int,
    active: Mapping[int, Member],
    start: Start | None,
) -> Checkpoints:
    """The checkpoints of a population, in the folder of its sweep.

    Args:
      names: the fingerprints of its members.
      size: with the copies that fill it up.
      active: by its index, each unfinished member; looked at when one is saved.
      start: the one that the population goes on from.
    """
    first = next(iter(active.values()))

    def describe(step: int) -> dict[str, Any]:
        return checkpoint_record(first.run, step) | {
            "members": list(names),
            "size": size,
            "going": sorted(active),
            "wall_seconds": first.prepared.recorder.state()["wall_seconds"],
        }

    folder = sweep / checkpoint.FOLDER / fingerprint({"members": list(names)})
    settings = first.prepared.checkpoints.settings
    return Checkpoints(folder, settings, "", describe, start)


def left_over(
    sweep: Path, members: Iterable[Member], most_steps: int
) -> tuple[list[Saved], list[Member]]:
    """The populations that `members` were in when the sweep was killed.

    A member whose end came before its population was saved stays as it ended.

    Returns:
      those populations, and the members that begin anew.
    """
    folder = sweep / checkpoint.FOLDER
    begun = {m.job.fingerprint: m for m in members if m.prepared.recorder.kept}
    found = []
    for path in sorted(folder.iterdir()) if begun and folder.is_dir() else []:
        saved = _read(path, begun, most_steps)
        if saved:
            found.append(saved)
    taken = {id(m) for saved in found for m in saved.active.values()}
    anew = [m for m in members if id(m) not in taken and m.job.error is None]
    return found, anew


def _read(path: Path, begun: dict[str, Member], most_steps: int) -> Saved | None:
    try:
        newest = path / str(checkpoint.steps(path)[-1]) / "record" / "metadata"
        record = json.loads(newest.read_text(encoding="utf-8"))
        places = {i: begun[n] for i, n in enumerate(record["members"]) if n in begun}
    except (IndexError, OSError, ValueError, KeyError):
        return None  # `newest` below would say no more
    if not places:
        return None
    run = next(iter(places.values())).run
    population = Population(record["size"], most_steps)
    target = start_shapes(run.spec, run.values, population)
    try:
        start = checkpoint.newest(path, None, target, run.spec.description)
    except ConfigError as error:
        print(f"warning: {error}; {len(places)} jobs begin anew", file=sys.stderr)
        shutil.rmtree(path, ignore_errors=True)
        return None
    active = {i: m for i, m in places.items() if i in start.record["going"]}
    for index, member in places.items():
        begun.pop(member.job.fingerprint)
        if index not in active:
            _stays(member)
        else:
            # XLA adds up in another order than for one run alone.
            recorder = member.prepared.recorder
            recorder.provenance["members"] = len(record["members"])
            continued(recorder, start)
    if not active:
        shutil.rmtree(path, ignore_errors=True)
        return None
    return Saved(record["members"], population, start, active)


def _stays(member: Member) -> None:
    path = member.prepared.recorder.folder / "summary.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    member.job.error = TrainingStopped(told.get("error", told["status"]))
    member.ended(member.job)
