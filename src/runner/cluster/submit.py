"""One run as one job of a cluster, followed from the terminal that started it."""

import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.cluster.array_task import Payload, TaskContext
from runner.cluster.engine import ArrayTaskState, Engine
from runner.cluster.engines import engine
from runner.cluster.events import Events, Tail
from runner.cluster.handed_over import refuse_secrets
from runner.cluster.plan import Plan, PlannedTask
from runner.cluster.watch import Watch
from runner.config.explain import failure
from runner.config.hydra_job import HydraJob
from runner.config.plain import plain
from runner.errors import ConfigError, JobFailed
from runner.job.check import check
from runner.job.identity import base_of, fingerprint
from runner.record.files import lock, read_object
from runner.record.terminal import number
from runner.settings import ClusterSettings

# How long the first process waits for the traceback of another that ends it.
TRACEBACK_SECONDS = 5.0


def submit(cfg: DictConfig, job: HydraJob) -> float:
    """Run one composed job on the cluster, or follow the one that its folder has.

    It has a process for each GPU of its nodes, or one on each node.

    Args:
      cfg: the composed configuration.
      job: what else Hydra knows about it.

    Returns:
      the final value of `objective`.

    Raises:
      ConfigError: before anything is submitted.
      JobFailed: the run failed there.
      SystemExit: after a dry run.
    """
    check(cfg)
    settings = settings_of(cfg)
    configs = plain(cfg), plain(HydraConfig.instance().cfg)
    refuse_secrets(configs, [job.overrides])
    folder = job.folder
    processes = settings.gpus if settings.engine == "slurm" else 1
    plan = Plan(folder)
    chosen = engine(settings, plan.logs, "runner", max(processes, 1))
    if settings.dry_run:
        print(chosen.script(1))
        raise SystemExit(0)
    name = fingerprint(base_of(cfg))
    last = plan.tasks[-1] if plan.tasks else None
    if last and plan.active:
        if last.jobs != [name]:
            raise ConfigError(
                f"{folder} has another run, which hasn't ended: wait for job "
                f"{last.id}, cancel it, or set hydra.run.dir to another folder"
            )
        print(f"following the run in {folder}", file=sys.stderr)
    elif not (last and last.jobs == [name] and last.over == "done"):
        payload = Payload.here(settings, _train, cfg, job)
        plan.add([name], payload.write(plan.folder))
    terminal = _Terminal(chosen, folder)
    watch = Watch(chosen, plan, settings.retries, terminal)
    try:
        with _alone(plan.folder):
            watch.run()
    except KeyboardInterrupt:
        if not leave(watch, plan):
            print(f"hydra.run.dir={folder} follows it again", file=sys.stderr)
        raise
    return terminal.result(plan.tasks[-1], cfg.objective)


def settings_of(cfg: DictConfig) -> ClusterSettings:
    """The `cluster` section as plain values.

    Raises:
      ConfigError: it asks for more than one machine here.
    """
    settings = OmegaConf.to_object(cfg.cluster)
    assert isinstance(settings, ClusterSettings)
    if settings.engine == "local" and settings.nodes > 1:
        raise ConfigError(
            f"cluster.nodes={settings.nodes} must be 1 with cluster=local, which is "
            "this machine alone"
        )
    return settings


def leave(watch: Watch, plan: Plan) -> bool:
    """After Ctrl-C, cancel what is submitted if the person at the terminal agrees.

    Returns:
      whether nothing keeps running.
    """
    ids = [task.id for task in plan.active if task.ids]
    if not ids:
        return True
    jobs = ids[0] if len(ids) == 1 else f"{ids[0]} ... {ids[-1]}"
    answer = ""
    if sys.stdin.isatty():
        try:
            answer = input(f"\ncancel {jobs}? [y/N] ")
        except (EOFError, KeyboardInterrupt):
            pass
    if answer.strip().lower() not in ("y", "yes"):
        print(f"{jobs} continues without this terminal", file=sys.stderr)
        return False
    watch.cancel()
    print(f"cancelled {jobs}", file=sys.stderr)
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second launcher, which would also resubmit killed tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            lock(file)
        except BlockingIOError:
            raise ConfigError(
                f"another terminal is following the run in {folder.parent}"
            ) from None
        yield


class _Terminal:
    """A `Listener` that shows what the run prints."""

    def __init__(self, engine: Engine, folder: Path):
        self._engine = engine
        self._folder = folder
        self._task: PlannedTask | None = None
        self._logs: dict[str, Tail] = {}  # of each attempt
        self._shown = ""  # the end of what is shown
        self._failure: Mapping[str, Any] | None = None
        self._has_ended = False

    def event(self, task: PlannedTask, event: Mapping[str, Any]) -> None:
        self._has_ended |= event["event"] in ("done", "failed")
        if event["event"] == "failed":
            self._failure = event
        elif event["event"] == "requeued":
            self.say(f"job {task.id} was asked to stop and is queued again")

    def state(self, task: PlannedTask, state: ArrayTaskState) -> None:
        self._task = task
        self.poll()
        if not state.over:
            self.say(f"job {task.id}: {state}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def killed(self, task: PlannedTask, text: str) -> None:
        self.poll()
        self.say(text)

    def unfinished(self, task: PlannedTask) -> int:
        return int(not self._has_ended)

    def lost(self, task: PlannedTask, why: str) -> None:
        self._failure = {"error": f"{why}. See {self._engine.log(task.id)}"}

    def poll(self) -> None:
        """Show what the first process has printed."""
        if self._task is None or not self._task.ids:
            return
        job = self._task.id
        log = self._logs.setdefault(job, Tail(self._engine.log(job)))
        try:
            lines = [line.decode(errors="replace") for line in log.lines()]
        except OSError:
            return
        for line in lines:
            if not line.startswith("submitit "):
                self.say(line)
                self._shown = f"{self._shown[-20_000:]}\n{line}"

    def result(self, task: PlannedTask, objective: str) -> float:
        """The final value of `objective`.

        Raises:
          JobFailed: it failed.
        """
        self.poll()
        if self._failure:
            text = self._failure.get("told", "").rstrip()
            if text and text.splitlines()[-1] not in self._shown:
                self.say(text)  # the log is late
            raise JobFailed(self._failure["error"])
        path = self._folder / "summary.json"
        try:
            value = float(read_object(path)["final"][objective])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} has no number as final.{objective}") from error
        self.say(f"job {task.id}: done, {objective} {number(objective, value)}")
        return value


def _train(task: TaskContext, cfg: DictConfig, job: HydraJob) -> bool:
    """Train in each process of the job. Returns whether the run is done."""
    from runner.job.run import run_job

    composed: Any = copy.deepcopy(HydraConfig.instance().cfg)
    with read_write(composed), open_dict(composed):  # the log's name depends on it
        composed.distributed, composed.print = cfg.distributed, cfg.print
    configure_log(composed.hydra.job_logging, composed.hydra.verbose)
    name = fingerprint(base_of(cfg))
    # An attempt may have finished and been killed before it could report it.
    began = name in task.events.started_before if task.events else task.again
    if began and status(task.folder) == "finished":
        if task.events:
            task.events.done(name, None)
        return True
    last_words: list[Callable[[str], None]] = []
    task.keeps = partial(has_progress, task.folder)
    task.has_failed = partial(_has_failed, task, name)
    if task.events:
        task.events.running(name)
        last_words.append(partial(_ended_by_another, task, task.events, name))
    try:
        result = run_job(cfg, job, last_words)
    except Exception as error:
        who = f"process {task.rank}" if task.rank else task.folder.name
        text = failure(who, error)
        print(text, file=sys.stderr)
        if task.events:
            task.events.failed(name, error, text)
        else:
            task.failure.write_text(text, encoding="utf-8")
        return False
    if task.events:
        task.events.done(name, result)
    return True


def _has_failed(task: TaskContext, job: str) -> bool:
    """Report why another process failed, if one did: Slurm ends this one for it."""
    others = task.failures()
    if task.events and others:
        task.events.failed(job, JobFailed(others[0].splitlines()[-1]), others[0])
    return bool(task.events and others)


def _ended_by_another(
    task: TaskContext, events: Events, job: str, message: str
) -> None:
    """Report the process whose failure ends this one, the first."""
    end = time.monotonic() + TRACEBACK_SECONDS
    while not task.failures() and time.monotonic() < end:
        time.sleep(0.1)
    text = next(iter(task.failures()), message)
    print(text, file=sys.stderr, flush=True)
    events.failed(job, JobFailed(text.splitlines()[-1]), text)
    events.end()


def status(folder: Path) -> str | None:
    """The status in a run folder's summary; None if there is none.

    Raises:
      ConfigError: summary.json is damaged.
    """
    try:
        return read_object(folder / "summary.json").get("status")
    except FileNotFoundError:
        return None


def has_progress(folder: Path) -> bool:
    """Whether a run that a signal has ended would continue where it was."""
    try:
        summary = read_object(folder / "summary.json")
    except (FileNotFoundError, ConfigError):
        return False
    return summary.get("status") == "preempted" and bool(summary.get("steps"))
