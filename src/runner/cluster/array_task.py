"""What runs in the processes of a task, on whichever machine they are."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from runner.cluster.events import Events
from runner.cluster.plan import IN_TASK, Plan
from runner.settings import ClusterSettings, minutes

# What announces the end of a job.
_WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass
class Payload:
    """What the processes of a task need of the launcher's.

    Attributes:
      work: trains the jobs; called with `Task`, then `given`. Returns whether all of
        them are done.
      given: its other arguments.
      argv: the launcher's command line, as recorded.
      path: where it finds modules, those of the user among them.
      hydra: the state of Hydra's singletons.
      warning_seconds: the time from SIGTERM to the time limit.
      retries: how often a task is tried again from where it began.
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
        """For tasks of the launcher that this process is."""
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
class Task:
    """A task as its own processes see it.

    Attributes:
      folder: the run's or the sweep's.
      number: its number in the plan.
      rank: of this process among those of the task.
      again: whether an attempt at it has been made before.
      events: where the first process tells of the jobs; None in the others.
      keeps: whether another attempt would go on where this one stops.
    """

    folder: Path
    number: int
    rank: int
    again: bool
    events: Events | None
    keeps: bool = False

    @property
    def failure(self) -> Path:
        """Where a process that isn't the first tells why it failed."""
        return self._failure(str(self.rank))

    def failures(self) -> list[str]:
        """What other processes of this attempt have told."""
        pattern = self._failure("*")
        return [path.read_text("utf-8") for path in pattern.parent.glob(pattern.name)]

    def _failure(self, rank: str) -> Path:
        attempt = f"{engine_id()}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        return Plan(self.folder).events(self.number).parent / f"{attempt}-{rank}.txt"


def run(folder: str, number: int, payload: str, attempt: int) -> None:
    """Do a task. submitit calls this in each of its processes.

    Args:
      folder: the run's or the sweep's.
      number: of the task in the plan.
      payload: the name of the file that `Payload.write` wrote.
      attempt: how often it has been submitted before.

    SIGTERM and what else announces the end of a job interrupts it as Ctrl-C would. It
    is then put back into the queue if what is done so far is kept.

    Raises:
      SystemExit: with status 1 if a job failed.
    """
    import cloudpickle

    os.environ[IN_TASK] = "1"
    for warning in _WARNINGS:
        signal.signal(warning, _interrupt)
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        os.setsid()  # Ctrl-C at the launcher's terminal isn't for this
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    plan = Plan(Path(folder))
    events = Events(plan.events(number), engine_id()) if rank == 0 else None
    again = attempt > 0 or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    task = Task(Path(folder), number, rank, again, events)
    needed: Payload | None = None
    # Hydra runs the modules of plugins anew when it looks for them: to be done before
    # their classes are unpickled, and not again.
    plugins = Plugins.instance()
    try:
        needed = cloudpickle.loads((plan.folder / payload).read_bytes())
        assert isinstance(needed, Payload)
        sys.argv, sys.path[:] = needed.argv, needed.path
        needed.hydra["instances"][Plugins] = plugins
        Singleton.set_state(needed.hydra)
        well = needed.work(task, *needed.given)
    except (KeyboardInterrupt, SystemExit):
        _stop(task, needed)
    except Exception as error:
        if events:
            events.broken(error)
        raise
    if events:
        events.end()
    if not well:
        raise SystemExit(1)


def _interrupt(number: int, frame: object) -> NoReturn:
    _ignore_warnings()
    raise KeyboardInterrupt(signal.Signals(number).name)


def _ignore_warnings() -> None:
    """The first is enough: what it ends isn't to be disturbed."""
    for warning in _WARNINGS:
        signal.signal(warning, signal.SIG_IGN)


def _stop(task: Task, payload: Payload | None) -> NoReturn:
    """End an interrupted task; the first process asks for it to come again."""
    _ignore_warnings()
    if task.events is None:
        raise SystemExit(0)  # any other status would take the first process along
    if payload and _requeue(task.keeps, payload):
        task.events.requeued()
    raise SystemExit(1)


def engine_id() -> str:
    """The id by which the task's engine knows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return job or str(os.getpid())


def _requeue(keeps: bool, payload: Payload) -> bool:
    """Ask Slurm to start this task again, if there is a point in that.

    There is none if somebody has cancelled it, which doesn't keep Slurm from requeueing
    it. If it would begin where it began before, that is tried a few times, and not if
    its time was over: it would never end.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    job = engine_id()
    ask = ["squeue", "--noheader", "--format=%T %L", f"--jobs={job}"]
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    try:
        state, left = subprocess.check_output(ask, text=True, timeout=30).split()
        # Slurm's signal may be a minute early.
        is_over = (minutes(left) or 0) * 60 <= payload.warning_seconds + 120
        if state != "RUNNING":
            return False
        if not keeps and (is_over or restarts >= payload.retries):
            return False
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"can't be requeued: {error}", file=sys.stderr)
        return False
    return True
