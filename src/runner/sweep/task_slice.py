"""Trains a cluster task's slice of a sweep's jobs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.cluster.array_task import TaskContext
from runner.cluster.events import Events
from runner.cluster.plan import Plan
from runner.cluster.submit import has_progress
from runner.config.explain import failure
from runner.errors import ConfigError
from runner.record.files import write_json
from runner.sweep.compose import Composer
from runner.sweep.job import Job, assign_folder, compose_job, load_finished
from runner.sweep.launcher import Launcher
from runner.sweep.ledger import JobState


def write_slice(plan: Plan, number: int, jobs: Sequence[Job]) -> None:
    """Write the list of a task's jobs."""
    path = plan.events(number).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        (job.number, job.overrides, job.fingerprint, job.config.hydra.sweep.subdir)
        for job in jobs
    ]
    write_json(path, rows)


def train_slice(
    task: TaskContext,
    launcher: Launcher,
    keys: Sequence[str],
) -> bool:
    """Train the unfinished jobs of a task. Returns whether all of them are done.

    Raises:
      ConfigError: the configuration files have changed since the task was submitted.
    """
    from runner.sweep.sweep import Sweep

    assert task.events is not None  # a task of a sweep is one process
    path = Plan(task.folder).events(task.number).with_suffix(".json")
    composer = Composer(launcher.context.config_loader, launcher.master)
    todo = []
    for number, overrides, wanted, folder in _read_slice(path):
        job = compose_job(composer, overrides, number, keys)
        if job.fingerprint != wanted:
            raise ConfigError(
                f"job {job.name} differs from what was submitted: the configuration "
                "files have changed since. Run the same command again"
            )
        assign_folder(job, task.folder, folder)
        if load_finished(job):
            task.events.done(job.fingerprint, job.result)
        elif job.fingerprint not in task.events.failed_before:
            todo.append(job)
    journal = _TaskJournal(task, task.events, {job.fingerprint: job for job in todo})
    task.keeps = lambda: (
        journal.has_ended or any(has_progress(job.folder) for job in todo)
    )
    Sweep(launcher, journal).run(todo, len(todo))
    return not (task.events.failed_before or any(job.error for job in todo))


def _read_slice(path: Path) -> list[tuple[int, list[str], str, str]]:
    """What `write_slice` has written.

    Raises:
      ConfigError: it is damaged.
    """
    try:
        rows = json.loads(path.read_bytes())
        for number, overrides, wanted, folder in rows:
            texts = [*overrides, wanted, folder]
            if type(number) is not int or not all(isinstance(t, str) for t in texts):
                raise ValueError("it is of another shape")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} can't be read as a list of jobs: {error}") from error
    return rows


class _TaskJournal:
    """A `Journal` that writes events: the ledger is the launcher's."""

    def __init__(self, task: TaskContext, events: Events, jobs: Mapping[str, Job]):
        self.folder: Path = task.folder
        self.has_ended = False  # a job, so that another attempt has less to do
        self._events = events
        self._jobs = jobs

    def set(
        self, fingerprint: str, state: JobState, result: float | None = None
    ) -> None:
        if state == "running":
            self._events.running(fingerprint)
            return
        self.has_ended = True
        if state == "done":
            self._events.done(fingerprint, result)
            return
        job = self._jobs[fingerprint]
        assert job.error is not None
        self._events.failed(fingerprint, job.error, failure(job.name, job.error))
