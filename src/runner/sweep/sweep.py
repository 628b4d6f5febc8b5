"""Runs the unfinished jobs of a sweep."""

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.utils import JobStatus, run_job
from omegaconf import DictConfig

from runner.config.explain import failure
from runner.config.hydra_files import Sections
from runner.config.hydra_job import hydra_job
from runner.errors import Finished
from runner.job.trackers import begin_mirroring
from runner.sweep.job import Job, as_hydra_job, can_be_packed
from runner.sweep.launcher import Launcher
from runner.sweep.ledger import JobState
from runner.sweep.prefetch import ahead
from runner.sweep.status import Status

if TYPE_CHECKING:
    from runner.core.run import Run
    from runner.job.session import Session
    from runner.sweep.member import Member

# How many jobs are built before those ahead of them are trained.
BUILT_AHEAD = 64
# A thread that holds Python's lock releases it after this time: one that trains needs
# it briefly, but many times a second.
SWITCH_SECONDS = 0.001


class Journal(Protocol):
    """Where a `Sweep` records its jobs' states: the ledger, or a task's events."""

    @property
    def folder(self) -> Path:
        """The sweep's, in which populations are saved."""
        ...

    def set(
        self, fingerprint: str, state: JobState, result: float | None = None
    ) -> None:
        """Record the state of a job."""


class Sweep:
    """Runs unfinished jobs and records their results.

    Args:
      launcher: what the sweep was launched with.
      journal: where they are recorded.
    """

    def __init__(self, launcher: Launcher, journal: Journal):
        self._launcher = launcher
        self._context = launcher.context
        self._journal = journal
        self._sections = Sections()
        self._lock = threading.Lock()  # jobs end in threads of their own
        self._status: Status
        self._session: Session

    def run(self, todo: Sequence[Job], total: int) -> None:
        """Run `todo`, the unfinished ones of `total` jobs."""
        os.environ.pop("WANDB_RUN_ID", None)  # a name for one run, and here are many
        packed = [job for job in todo if can_be_packed(job.config)]
        if len(packed) > 1:
            with Status(total, total - len(todo)) as self._status:
                self._packed(packed)
        else:
            packed = []
        for job in todo:
            if job not in packed:
                self._alone(job)

    def _packed(self, jobs: list[Job]) -> None:
        begin_mirroring(jobs[0].config, len(jobs))
        from runner.sweep import population
        from runner.sweep.group import PopulationQueue, group_key

        strategy, most = self._launcher.strategy, self._launcher.max_members
        from runner.job.session import Session

        session = self._session = Session(folder=self._journal.folder)
        alike = Counter(job.likeness for job in jobs)
        compiling: dict[Any, Future[int]] = {}
        groups: dict[Any, PopulationQueue] = {}

        def begin(job: Job, run: "Run") -> None:
            # A guess at the group's size. An error is raised again when it is trained.
            key, count = group_key(run), alike[job.likeness]
            if key in compiling or count == 1:
                return
            with contextlib.suppress(RuntimeError):  # interrupted, and shut down
                compiling[key] = compiler.submit(compile_ahead, run, count)

        def compile_ahead(run: "Run", count: int) -> int:
            if not population.side_by_side(run, strategy):
                return 1
            return population.compile_for(run, count, most, session)

        # Python builds jobs while XLA compiles or trains others.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            with population.Closing() as closing, ThreadPoolExecutor(1) as compiler:
                for member in ahead(self._members(jobs, begin, alike), BUILT_AHEAD):
                    alone = member.prepared.checkpoints.start is not None
                    if alone or not population.side_by_side(member.run, strategy):
                        population.train_alone(member, session, closing)
                        continue
                    key = group_key(member.run)
                    if key not in groups:
                        begin(member.job, member.run)
                        sweep, ready = self._journal.folder, compiling.get(key)
                        groups[key] = PopulationQueue(
                            most, session, closing, sweep, ready
                        )
                    groups[key].add(member)
                self._status.phase = "compiling"
                compiler.shutdown()
                for group in groups.values():
                    group.finish()
        finally:
            sys.setswitchinterval(interval)

    def _members(
        self, jobs: list[Job], begin: "Callable[[Job, Run], None]", alike: Counter[str]
    ) -> "Iterator[Member]":
        for job in jobs:
            self._status.changed()
            most = self._most(alike[job.likeness])
            member = self._member(job, partial(begin, job), most)
            if member:
                yield member

    def _most(self, alike: int) -> int:
        """How many of as many jobs may train side by side."""
        strategy, limit = self._launcher.strategy, self._launcher.max_members
        if strategy == "loop":
            return 1
        return alike if limit == "auto" else min(alike, limit)

    def _member(
        self, job: Job, begin: "Callable[[Run], None]", most: int
    ) -> "Member | None":
        """Build `job`; None if that fails, and with it the job."""
        from runner.job.prepared import prepare
        from runner.sweep.member import Member

        try:
            with as_hydra_job(job.config, job.folder, self._sections) as task:
                self._context.callbacks.on_job_start(
                    config=job.config, task_function=self._launcher.task
                )
                composed = hydra_job(task)
                prepared = prepare(
                    task,
                    composed,
                    self._session,
                    quiet=True,
                    begin=begin,
                    most=most,
                )
        except Finished as done:
            job.result = done.result
            self._ended(job)
            return None
        except Exception as error:
            job.error = error
            self._ended(job)
            return None
        if not self._context.callbacks.callbacks:
            job.config = DictConfig({})  # a thousand of them take much memory
        return Member(job, prepared, self._started, self._advanced, self._ended)

    def _started(self, job: Job) -> None:
        with self._lock:
            self._status.running += 1
            self._status.reached(job.number, 0.0)
            self._journal.set(job.fingerprint, "running")

    def _advanced(self, job: Job, fraction: float) -> None:
        with self._lock:
            self._status.advance(job.number, fraction)

    def _ended(self, job: Job) -> None:
        with self._lock:
            self._note(job)
            status = self._status
            started = job.number in status.progress
            status.running -= started
            status.reached(job.number, 1.0)
            if job.error:
                status.failed += 1
                status.say(failure(job.name, job.error))
            else:
                status.done += 1
            status.changed()
            self._context.callbacks.on_job_end(
                config=job.config, job_return=job.returned()
            )

    def _note(self, job: Job) -> None:
        state = "failed" if job.error else "done"
        self._journal.set(job.fingerprint, state, job.result)

    def _alone(self, job: Job) -> None:
        self._journal.set(job.fingerprint, "running")
        returned = run_job(
            hydra_context=self._context,
            task_function=self._launcher.task,
            config=job.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if returned.status is JobStatus.COMPLETED:
            job.result = returned.return_value
        else:
            job.error = returned._return_value
        self._note(job)
