"""This machine in place of Slurm, through submitit's processes."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from submitit.core.core import Job
from submitit.core.utils import JobPaths
from submitit.local.local import LocalExecutor

from runner.cluster import process
from runner.cluster.engine import ArrayTaskState
from runner.errors import ConfigError
from runner.settings import ClusterSettings, minutes


class Local:
    """An `Engine`. A task's id is that of the process that supervises it."""

    name = "this machine"
    grace_seconds = 1.0

    def __init__(self, settings: ClusterSettings, folder: Path):
        self._folder = folder
        self._settings = settings
        self.at_once: int | None = settings.array_parallelism
        self._jobs: dict[str, Job] = {}  # of this launcher, which reaps them

    def submit(
        self, calls: Sequence[tuple[Callable, tuple[Any, ...]]], name: str
    ) -> list[str]:
        executor = LocalExecutor(self._folder, python=process.command())
        settings = self._settings
        executor.update_parameters(
            timeout_min=minutes(settings.time),
            signal_delay_s=settings.warning_seconds,
            gpus_per_node=settings.gpus,
            setup=settings.setup,
            stderr_to_stdout=True,
        )
        with _outlived():
            jobs = [executor.submit(call, *given) for call, given in calls]
        self._jobs.update((job.job_id, job) for job in jobs)
        return [job.job_id for job in jobs]

    def find(self, name: str, count: int) -> list[str] | None:
        return None  # a process starts and is recorded within a moment

    def states(self, ids: Sequence[str]) -> dict[str, ArrayTaskState]:
        return {task: self._state(task) for task in ids}

    def _state(self, task: str) -> ArrayTaskState:
        if task in self._jobs:
            runs = not self._jobs[task].done()
        else:
            runs = _is_ours(int(task))
        name = "RUNNING" if runs else "OVER"
        return ArrayTaskState(name, "", f"this machine, process {task}", not runs)

    def cancel(self, ids: Sequence[str]) -> None:
        for task in ids:
            if not self._state(task).over:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(int(task), signal.SIGTERM)  # it forwards the signal

    def log(self, task: str) -> Path:
        return JobPaths(self._folder, job_id=task, task_id=0).stdout

    def script(self, count: int) -> str:
        raise ConfigError(
            "cluster.dry_run=true: cluster=local has no batch script; use "
            "cluster=slurm to see one"
        )


def _is_ours(number: int) -> bool:
    """Whether a process is still the one that was started for a task."""
    try:
        if not Path("/proc").is_dir():  # not Linux: the number must do
            os.kill(number, 0)
            return True
        command = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False
    return b"submitit.local._local" in command


@contextmanager
def _outlived() -> Iterator[None]:
    """Let processes started in the block ignore the terminal's Ctrl-C and closing."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
