"""Hands the jobs of a sweep to a cluster, one population per task, and follows them."""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from runner.cluster.array_task import Payload
from runner.cluster.engine import ArrayTaskState, Engine
from runner.cluster.engines import engine
from runner.cluster.plan import Plan, PlannedTask
from runner.cluster.submit import leave
from runner.cluster.watch import Watch, summary
from runner.errors import JobFailed
from runner.settings import ClusterSettings
from runner.sweep.job import Job, can_be_packed
from runner.sweep.launcher import Launcher
from runner.sweep.ledger import Ledger
from runner.sweep.status import Status
from runner.sweep.task_slice import train_slice, write_slice

_LAST_LINES = 15


def cut(
    jobs: Sequence[Job], most: int | Literal["auto"], max_tasks: int
) -> list[list[Job]]:
    """The jobs of each task: a population, or several where there are too many.

    Jobs that may differ in numbers alone are cut into populations of equal sizes, up to
    `most` jobs. Which of them really share a program is known only when a task builds
    them, which may need a data set and its devices.

    Args:
      most: the most members of a population; `auto` means MOST_MEMBERS.
      max_tasks: the most tasks; beyond it small populations share one.
    """
    from runner.core.choose import MOST_MEMBERS

    limit = MOST_MEMBERS if most == "auto" else most
    alike: dict[tuple[bool, str], list[Job]] = {}
    for job in jobs:
        key = can_be_packed(job.config), job.likeness
        alike.setdefault(key, []).append(job)
    populations = []
    for group in alike.values():
        parts = -(-len(group) // limit)
        bounds = [len(group) * i // parts for i in range(parts + 1)]
        populations += [group[a:b] for a, b in itertools.pairwise(bounds)]
    if len(populations) <= max_tasks:
        return populations
    # The largest first, each to the task that has the fewest jobs so far.
    tasks: list[list[Job]] = [[] for _ in range(max_tasks)]
    sizes = [(0, i) for i in range(max_tasks)]
    for population in sorted(populations, key=len, reverse=True):
        size, i = heapq.heappop(sizes)
        tasks[i] += population
        heapq.heappush(sizes, (size + len(population), i))
    return tasks


def engine_of(settings: ClusterSettings, folder: Path) -> Engine:
    """The engine that runs the tasks of the sweep in `folder`.

    Raises:
      ConfigError: it isn't installed.
    """
    plan = Plan(folder)
    name = f"runner-{plan.folder.parent.name}"
    return engine(settings, plan.logs, name, processes=1)


def script(
    jobs: Sequence[Job],
    settings: ClusterSettings,
    most: int | Literal["auto"],
    chosen: Engine,
) -> str:
    """The batch script that would be submitted for `jobs`."""
    return chosen.script(len(cut(jobs, most, settings.max_tasks)))


def run(
    launcher: Launcher,
    settings: ClusterSettings,
    ledger: Ledger,
    plan: Plan,
    jobs: Sequence[Job],
    total: int,
    keys: Sequence[str],
) -> None:
    """Run `jobs`, the unfinished ones of `total`, and record their results.

    Jobs in the active tasks of an earlier launcher aren't submitted again.

    Raises:
      ConfigError: the cluster refuses them.
    """
    chosen = engine_of(settings, ledger.folder)
    submitted = {name for task in plan.active for name in task.jobs}
    new = [job for job in jobs if job.fingerprint not in submitted]
    if new:
        _plan(launcher, settings, plan, new, keys)
    status = Status(total, total - len(jobs))
    listener = _Sweep(chosen, ledger, plan, jobs, status)
    watch = Watch(chosen, plan, settings.retries, listener)
    try:
        with status:
            status.say(
                f"{len(jobs)} jobs in {len(plan.active)} tasks on {chosen.name}; "
                f"logs in {plan.logs}"
            )
            watch.run()
    except KeyboardInterrupt:
        leave(watch, plan)
        raise


def _plan(
    launcher: Launcher,
    settings: ClusterSettings,
    plan: Plan,
    jobs: Sequence[Job],
    keys: Sequence[str],
) -> None:
    """Add the tasks of `jobs` to `plan`."""
    payload = Payload.here(
        settings,
        train_slice,
        launcher,
        list(keys),
    )
    file = payload.write(plan.folder)
    for several in cut(jobs, launcher.max_members, settings.max_tasks):
        task = plan.add([job.fingerprint for job in several], file)
        write_slice(plan, task.number, several)


class _Sweep:
    """A `Listener` that records and shows what happens to the jobs."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        plan: Plan,
        jobs: Sequence[Job],
        status: Status,
    ):
        self._engine = engine
        self._ledger = ledger
        self._plan = plan
        self._jobs = {job.fingerprint: job for job in jobs}
        self._status = status
        self._states: dict[int, ArrayTaskState] = {}
        self._reported = ""
        self._running: set[str] = set()
        self._ended: set[str] = set()

    def event(self, task: PlannedTask, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "attempt":  # it begins with what the last one left
            self._running.difference_update(task.jobs)
        elif kind == "requeued":
            self.say(f"task {task.id} was asked to stop and is queued again")
        else:
            self._job(event["job"], kind, event)
        self._status.running = len(self._running)

    def _job(self, name: str, kind: str, event: Mapping[str, Any]) -> None:
        if name in self._ended or name not in self._ledger.jobs:
            return
        if kind == "running":
            self._running.add(name)
            self._ledger.set(name, "running")
            return
        if kind == "done":
            self._end(name, event["result"], None)
        else:
            self._end(name, None, event["error"])
            self.say(event["told"].rstrip())

    def _end(self, name: str, result: float | None, error: str | None) -> None:
        self._ended.add(name)
        self._running.discard(name)
        self._ledger.set(name, "failed" if error else "done", result)
        self._status.running = len(self._running)
        if name not in self._jobs:  # an earlier command's
            return
        job = self._jobs[name]
        job.result = result
        job.error = JobFailed(error) if error else None
        self._status.failed += error is not None
        self._status.done += error is None
        self._status.advance(job.number, 1.0)

    def state(self, task: PlannedTask, state: ArrayTaskState) -> None:
        self._states[task.number] = state

    def say(self, text: str) -> None:
        self._status.say(text)

    def killed(self, task: PlannedTask, text: str) -> None:
        self._running.difference_update(task.jobs)
        log = self._engine.log(task.id)
        try:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        if lines:
            text += f"\n  {log} ends with:"
        self.say("\n    ".join([text, *lines[-_LAST_LINES:]]))

    def unfinished(self, task: PlannedTask) -> int:
        return len(self._unfinished(task))

    def lost(self, task: PlannedTask, why: str) -> None:
        names = self._unfinished(task)
        for name in names:
            self._end(name, None, why)
            if task.over == "cancelled":  # the same command resumes it
                self._ledger.set(name, "pending")
        if names:
            self.say(f"{len(names)} jobs failed: {why}")

    def _unfinished(self, task: PlannedTask) -> list[str]:
        known = self._ledger.jobs
        return [job for job in task.jobs if job in known and job not in self._ended]

    def poll(self) -> None:
        """Report the states of the tasks when they have changed."""
        states = (self._states.get(task.number) for task in self._plan.active)
        text = summary(state for state in states if state and not state.over)
        if text and text != self._reported:
            self._reported = text
            self.say(f"tasks: {text}")
