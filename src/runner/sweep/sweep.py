"""Runs the jobs of a sweep that are left to do."""

import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobStatus, run_job
from omegaconf import DictConfig

from runner.cli import job as run_alone
from runner.cli import job_arguments
from runner.failures import told
from runner.sweep.ahead import ahead
from runner.sweep.job import Job, as_hydra_job, can_be_packed
from runner.sweep.ledger import Ledger
from runner.sweep.status import Status

if TYPE_CHECKING:
    from hydra_plugins.packed_launcher import PackedLauncher
    from runner.sweep.population import Member

# Jobs that are built before those ahead of them are trained.
BUILT_AHEAD = 16
# A thread that holds Python's lock lets go of it after so long: one that trains needs
# it briefly, but many times a second.
SWITCH_SECONDS = 0.001


class Sweep:
    """Runs the jobs that are left, and notes what becomes of them."""

    def __init__(self, launcher: "PackedLauncher", ledger: Ledger):
        assert launcher.hydra_context is not None
        self._launcher = launcher
        self._context = launcher.hydra_context
        self._ledger = ledger
        self._lock = threading.Lock()  # jobs end in threads of their own
        self._status: Status

    def run(self, todo: list[Job], total: int) -> None:
        """Run `todo`, which are what is left of `total`."""
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
        from runner.checkpoint import FOLDER
        from runner.sweep import population

        strategy, most = self._launcher.strategy, self._launcher.max_members
        groups: dict[Any, list[Member]] = {}
        alike = Counter(job.likeness for job in jobs)
        # Python builds jobs while XLA compiles or trains others.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            with population.Closing() as closing, ThreadPoolExecutor(1) as compiling:
                for member in ahead(self._members(jobs), BUILT_AHEAD):
                    alone = population.has_own_checkpoints(member.prepared)
                    if alone or not population.side_by_side(member.run, strategy):
                        population.train_alone(member, closing)
                        continue
                    key = population.group_key(member.run)
                    group = groups.setdefault(key, [])
                    group.append(member)
                    count = alike[member.job.likeness]
                    if len(group) == 1 and count > 1:
                        # A guess at the group's size. What raises does so again below.
                        compiling.submit(
                            population.compile_for, member.run, count, most
                        )
                self._status.phase = "compiling"
                compiling.shutdown()
                for members in groups.values():
                    population.train_together(
                        members, most, closing, self._ledger.folder
                    )
            # Whoever was in them has its end in its own folder now.
            shutil.rmtree(self._ledger.folder / FOLDER, ignore_errors=True)
        finally:
            sys.setswitchinterval(interval)

    def _members(self, jobs: list[Job]) -> "Iterator[Member]":
        for job in jobs:
            self._status.changed()
            member = self._member(job)
            if member:
                yield member

    def _member(self, job: Job) -> "Member | None":
        """`job`, built; None if that fails, and with it the job."""
        from runner.run import prepare
        from runner.sweep.population import Member

        try:
            with as_hydra_job(job.config, job.folder) as task:
                self._context.callbacks.on_job_start(
                    config=job.config, task_function=run_alone
                )
                prepared = prepare(task, **job_arguments(task), quiet=True)
        except Exception as error:
            job.error = error
            self._ended(job)
            return None
        if not self._context.callbacks.callbacks:
            job.config = DictConfig({})  # a thousand of them take their room
        return Member(job, prepared, self._started, self._advanced, self._ended)

    def _started(self, job: Job) -> None:
        with self._lock:
            self._status.running += 1
            self._status.progress[job.number] = 0.0
            self._ledger.set(job.fingerprint, "running")

    def _advanced(self, job: Job, fraction: float) -> None:
        with self._lock:
            self._status.advance(job.number, fraction)

    def _ended(self, job: Job) -> None:
        with self._lock:
            self._note(job)
            status = self._status
            started = job.number in status.progress
            status.running -= started
            status.progress[job.number] = 1.0
            if job.error:
                status.failed += 1
                status.say(told(job.name, job.error))
            else:
                status.done += 1
            status.changed()
            self._context.callbacks.on_job_end(
                config=job.config, job_return=job.returned()
            )

    def _note(self, job: Job) -> None:
        state = "failed" if job.error else "done"
        self._ledger.set(job.fingerprint, state, job.result)

    def _alone(self, job: Job) -> None:
        self._ledger.set(job.fingerprint, "running")
        returned = run_job(
            hydra_context=self._context,
            task_function=run_alone,
            config=job.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if returned.status is JobStatus.COMPLETED:
            job.result = returned.return_value
        else:
            job.error = returned._return_value
        self._note(job)
