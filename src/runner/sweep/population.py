"""Jobs of one program and timetable, trained side by side or one after the other."""

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from runner.core.mesh import population_size
from runner.core.run import Run, Wanted
from runner.core.snapshot import Snapshot, Start
from runner.core.train import train
from runner.errors import ConfigError, Unwritable
from runner.job.choosing import MEMORY_SHARE
from runner.job.interruption import Interruption
from runner.job.memory import free_bytes
from runner.job.run import host_of, program_facts, train_recorded
from runner.job.session import Session
from runner.job.witness import witness_facts, witness_of
from runner.sweep.kept_states import KeptStates
from runner.sweep.member import Member
from runner.sweep.population_checkpoints import checkpoints_of

ASKED_MEMBERS = 32


class Closing:
    """Closes jobs in the background, where they wait for W&B. A context manager."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(8, "runner-close")
        self._ends: list[Future] = []
        self._folders: list[Path] = []

    def remove(self, folder: Path) -> None:
        """Remove a population's checkpoints once its members have ended.

        Until then they are needed if the process is killed.
        """
        self._folders.append(folder)

    def submit(self, close: Callable, *arguments: Any) -> None:
        self._ends.append(self._pool.submit(close, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for end in self._ends:
            end.result()  # raises what it raised
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # other populations, maybe other tasks'
                folder.parent.rmdir()


def side_by_side(run: Run, strategy: str) -> bool:
    """Whether runs like `run` train under `vmap`. `auto`: where that is faster.

    Raises:
      ConfigError: `strategy` is `vmap` but each batch comes from the host, which would
        have to make one for every member.
    """
    spec = run.spec
    on_device = spec.dataset.mode == "device"
    if strategy == "vmap" and not on_device:
        raise ConfigError(
            f"hydra.launcher.strategy=vmap needs data on the devices, but data.mode is "
            f"{spec.dataset.mode}; use data.mode=device or strategy=auto"
        )
    return run.choice.members > 1 if strategy == "auto" else strategy == "vmap"


def train_alone(member: Member, session: Session, closing: Closing) -> None:
    """Train one job to its end, with a program that it may share with others."""
    if not member.open():
        return
    error: BaseException | None = None
    try:
        train_recorded(member.prepared, session, member.row)
    except BaseException as raised:
        error = raised
    closing.submit(member.close, error)
    _reraise(error)


def train_together(
    names: Sequence[str],
    members: Mapping[int, Member],
    size: int,
    session: Session,
    closing: Closing,
    sweep: Path,
    start: Start | None,
) -> None:
    """Train a population, or what is left of it from `start` on.

    When half of its members have ended, the others continue in a smaller one.

    Args:
      names: the fingerprints of all members that it had.
      members: those that train, by their indices in `names`.
      size: the members of its program, with copies that fill it up.
      session: of the sweep.
      closing: closes the jobs.
      sweep: the folder in which it is saved.
      start: None means the beginning.
    """
    active = {index: member for index, member in members.items() if member.open()}
    while active:
        kept = KeptStates(active, size, start)
        rest = _train(names, active, kept, size, session, closing, sweep, start)
        if rest is None:
            return
        devices = next(iter(active.values())).run.spec.mesh.devices
        size = population_size(devices, len(active))
        start = kept.only(rest, sorted(active), size)
        names = [names[index] for index in sorted(active)]
        active = dict(enumerate(active[index] for index in sorted(active)))


def _train(
    names: Sequence[str],
    active: dict[int, Member],
    kept: KeptStates,
    size: int,
    session: Session,
    closing: Closing,
    sweep: Path,
    start: Start | None,
) -> Start | None:
    """Train `active`, and remove from it the members that end.

    Returns:
      where the others continue if half of the population has ended; else None.
    """
    # A finished member's slot is filled with another member's values.
    other = next(iter(active.values())).run
    compiled = session.program(other.spec, other.values, other.timetable, size)
    saved = start if start and "members" in start.record else None
    saver = checkpoints_of(sweep, names, size, active, saved, kept)
    runs = [active[i].run if i in active else other for i in range(len(names))]
    witness = witness_of(runs, compiled, start.step if start else 0, session)

    def save(step: int, snapshot: Snapshot, wanted: Wanted) -> None:
        kept.update(step, snapshot)
        if wanted == "always":
            saver.save(step, snapshot._replace(best=kept.best), wanted)

    is_lost = False

    def end(index: int, error: BaseException | None) -> None:
        nonlocal is_lost
        member = active.pop(index)
        if isinstance(error, Unwritable):
            member.prepared.tell_what_is_safe(error, saver.folder)
            is_lost = True
        facts = program_facts(compiled) | witness_facts(witness)
        member.prepared.recorder.finish(facts)
        _end(index, member, error, kept, closing)

    error: BaseException | None = None
    rest: Start | None = None
    try:
        with Interruption() as interruption, saver:
            host = host_of(
                lambda index, row: active[index].row(row),
                lambda index, row: active[index].prepared.stops(row),
                lambda index, *end: active[index].prepared.finish(*end),
                lambda: kept.best and kept.best.carry,
                saver,
                interruption,
                session.processes,
            )
            may_stop = any(m.prepared.stop.is_on for m in active.values())
            host = replace(
                host,
                save=save,
                look=lambda index, *given: active[index].prepared.callbacks(*given),
                looks=any(m.prepared.callbacks for m in active.values()),
                may_stop=may_stop,
                may_shrink=True,
            )
            training = train(compiled, runs, host, start, list(active), witness)
            while True:
                try:
                    end(*next(training))
                except StopIteration as done:
                    rest = done.value
                    break
    except BaseException as raised:
        error = raised
    if rest is None:
        for index in list(active):
            end(index, error)
    _reraise(error)
    if not is_lost:  # else the same command continues from them
        closing.remove(saver.folder)
    return rest


def _end(
    index: int,
    member: Member,
    error: BaseException | None,
    kept: KeptStates,
    closing: Closing,
) -> None:
    """Write the states of a member that ends, and close it."""
    try:
        if error is None or isinstance(error, Exception):  # else it is resumed
            kept.write(index, member, ended=error is None)
    except (Unwritable, ValueError) as failed:
        error = error or failed
    closing.submit(member.close, error)


def _reraise(error: BaseException | None) -> None:
    """Raise Ctrl-C and the like again, once members are closed."""
    if error and not isinstance(error, Exception):
        raise error


def compile_for(
    run: Run, count: int, most: int | Literal["auto"], session: Session
) -> int:
    """Choose the size of the populations that train `count` runs like `run`.

    Also compiles their program, ahead of its first use.
    """
    limit = most
    if limit == "auto":
        limit = run.choice.members
        if limit == 1:  # only hydra.launcher.strategy wants them side by side
            limit = ASKED_MEMBERS
    while True:
        size = -(-count // -(-count // limit))
        size = population_size(run.spec.mesh.devices, size)
        compiled = session.program(run.spec, run.values, run.timetable, size)
        needed = compiled.bytes  # waits until it is compiled
        fits = needed <= MEMORY_SHARE * free_bytes()
        if fits or most != "auto" or size == 1:
            return size
        limit = size // 2
