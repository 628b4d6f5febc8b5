"""The code that runs in the processes of a task, on whichever machine they are."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from runner import signals
from runner.cluster.events import Events
from runner.cluster.plan import IN_TASK, Plan
from runner.cluster.process import rank
from runner.config.explain import reason
from runner.config.hydra_files import hydra_files
from runner.errors import Preempted
from runner.settings import ClusterSettings, minutes


@dataclass
class Payload:
    """What the processes of a task need from the launcher.

    Attributes:
      work: trains the jobs; called with a `TaskContext`, then `given`. Returns whether
        all of them are done.
      given: its other arguments.
      argv: the launcher's command line, as recorded.
      path: where it finds modules, including the user's.
      hydra: the state of Hydra's singletons.
      warning_seconds: the time from SIGTERM to the time limit.
      retries: how often a task is retried from where it began.
    """

    work: Callable[..., bool]
    given: tuple[Any, ...]
    argv: list[str]
    path: list[str]
    hydra: Any
    warning_seconds: int
    retries: int

    @classmethod
    def here(
        cls, settings: ClusterSettings, work: Callable[..., bool], *given: Any
    ) -> "Payload":
        """Build one in this process, the launcher."""
        return cls(
            work,
            given,
            sys.argv,
            sys.path,
            Singleton.get_state(),
            settings.warning_seconds,
            settings.retries,
        )

    def write(self, folder: Path) -> str:
        """Write it into the plan's folder; returns the name of its file."""
        import cloudpickle

        folder.mkdir(parents=True, exist_ok=True)
        data = cloudpickle.dumps(self)
        name = f"payload-{hashlib.sha256(data).hexdigest()[:8]}.pkl"
        (folder / name).write_bytes(data)
        return name


@dataclass
class TaskContext:
    """A task as its own processes see it.

    Attributes:
      folder: the run's or the sweep's.
      number: its number in the plan.
      rank: of this process among those of the task.
      again: whether it has been attempted before.
      events: where the first process reports on the jobs; None in the others.
      keeps: whether another attempt would continue where this one stops.
      has_failed: whether a job has failed in another process, which ends this one with
        a signal; reports it.
    """

    folder: Path
    number: int
    rank: int
    again: bool
    events: Events | None
    keeps: Callable[[], bool] = lambda: False
    has_failed: Callable[[], bool] = lambda: False

    @property
    def failure(self) -> Path:
        """Where a process that isn't the first reports why it failed."""
        return self._failure(str(self.rank))

    def failures(self) -> list[str]:
        """The reports of other processes of this attempt."""
        pattern = self._failure("*")
        return [path.read_text("utf-8") for path in pattern.parent.glob(pattern.name)]

    def _failure(self, rank: str) -> Path:
        attempt = f"{engine_id()}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        return Plan(self.folder).events(self.number).parent / f"{attempt}-{rank}.txt"


def task_main(folder: str, number: int, payload: str, attempt: int) -> None:
    """Run a task. submitit calls this in each of its processes.

    Args:
      folder: the run's or the sweep's.
      number: of the task in the plan.
      payload: the name of the file that `Payload.write` wrote.
      attempt: how often it has been submitted before.

    A signal ends it as it ends `python -m runner`: see `runner.signals`, which watches
    from the first moment on (`runner.cluster.process`). It is then requeued if its
    progress is kept.

    Raises:
      SystemExit: with status 1 if a job failed.
    """
    import cloudpickle

    os.environ[IN_TASK] = "1"
    signals.take_back()  # from submitit
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    hydra_files()
    plan = Plan(Path(folder))
    events = Events(plan.events(number), engine_id()) if rank() == 0 else None
    again = attempt > 0 or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    task = TaskContext(Path(folder), number, rank(), again, events)
    # Hydra runs the modules of plugins again when it looks for them: this must be done
    # once, before their classes are unpickled.
    plugins = Plugins.instance()
    needed: Payload | None = None
    try:
        needed = cloudpickle.loads((plan.folder / payload).read_bytes())
        assert isinstance(needed, Payload)
        signals.last_word(task, lambda error: _stopped(task, needed, error))
        sys.argv, sys.path[:] = needed.argv, needed.path
        needed.hydra["instances"][Plugins] = plugins
        Singleton.set_state(needed.hydra)
        well = needed.work(task, *needed.given)
    except (KeyboardInterrupt, Preempted) as error:
        signals.leave(_stopped(task, needed, error))
    except Exception as error:
        if events:
            events.broken(error)
        # Not raised, since submitit would keep the text, and print it as it is.
        print(f"error:{reason(error)}", file=sys.stderr)
        raise SystemExit(1) from error
    signals.last_word(task, None)
    if events:
        events.end()
    if not well:
        raise SystemExit(1)


def _stopped(task: TaskContext, payload: Payload | None, error: BaseException) -> Any:
    """The exit status of a task that a signal ends; its first process requeues it."""
    if task.events is None:
        return 0  # any other would end the first process
    if task.has_failed():
        task.events.end()
        return 1
    if payload and _requeue(task.keeps(), payload):
        task.events.requeued()
    return error.code if isinstance(error, Preempted) else 130


def engine_id() -> str:
    """The engine's id of this task."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return job or str(os.getpid())


def _requeue(keeps: bool, payload: Payload) -> bool:
    """Ask Slurm to start this task again, if that makes sense.

    It doesn't if somebody has cancelled the task: Slurm would requeue it nevertheless.
    A task that would start over is requeued a few times only, and never after its time
    limit: it would not finish.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    job = engine_id()
    ask = ["squeue", "--noheader", "--format=%T %L", f"--jobs={job}"]
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    try:
        state, left = subprocess.check_output(ask, text=True, timeout=30).split()
        # Slurm's signal may be a minute early.
        is_timeout = (minutes(left) or 0) * 60 <= payload.warning_seconds + 120
        if state != "RUNNING":
            return False
        if not keeps and (is_timeout or restarts >= payload.retries):
            return False
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"the task can't be requeued: {error}", file=sys.stderr)
        return False
    return True
