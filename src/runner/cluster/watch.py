"""Submits the tasks of a plan and watches them until all have ended."""

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from runner.cluster.array_task import task_main
from runner.cluster.engine import ArrayTaskState, Engine, EngineUnreachable
from runner.cluster.events import Tail
from runner.cluster.plan import Plan, PlannedTask
from runner.errors import ConfigError

EVENTS_SECONDS = 0.5  # between two reads of the files
# Between two queries of the engine: often after something happened, then rarely.
ASK_SECONDS, LONGEST_ASK_SECONDS = 2.0, 30.0


class Listener(Protocol):
    """Receives what happens to the tasks."""

    def event(self, task: PlannedTask, event: Mapping[str, Any]) -> None:
        """A task reports on a job: see `Events`."""

    def state(self, task: PlannedTask, state: ArrayTaskState) -> None:
        """The engine's state of a task has changed."""

    def say(self, text: str) -> None:
        """A message for the user."""

    def killed(self, task: PlannedTask, text: str) -> None:
        """A task ended without reporting it; `text` is the message."""

    def unfinished(self, task: PlannedTask) -> int:
        """The number of a task's jobs that haven't ended."""
        ...

    def lost(self, task: PlannedTask, why: str) -> None:
        """A task's unfinished jobs are lost; its `over` says how it ended."""

    def poll(self) -> None:
        """Called regularly."""


class Watch:
    """Watches the active tasks of a plan, from the queue to their ends.

    A task that ends without reporting it is submitted again, `retries` times.
    """

    def __init__(self, engine: Engine, plan: Plan, retries: int, listener: Listener):
        self._engine = engine
        self._plan = plan
        self._retries = retries
        self._listener = listener
        self._tails: dict[int, Tail] = {}
        self._states: dict[int, ArrayTaskState] = {}
        self._gone: dict[int, float] = {}  # since when a task seems to have ended
        self._unreachable_since: float | None = None
        self._pause = ASK_SECONDS

    def run(self) -> None:
        """Watch until every task has ended.

        Raises:
          ConfigError: the engine refuses a task, or can't be asked about one.
        """
        self._find()
        asked = 0.0
        while self._plan.active:
            self._submit_what_waits()
            self._read()
            if time.monotonic() - asked >= self._pause:
                self._pause = min(self._pause * 1.5, LONGEST_ASK_SECONDS)
                self._ask()
                asked = time.monotonic()
            self._listener.poll()
            if self._plan.active:
                time.sleep(EVENTS_SECONDS)

    def cancel(self) -> None:
        """End all tasks."""
        self._engine.cancel([task.id for task in self._plan.active if task.ids])
        for task in self._plan.active:
            self._end(task, "cancelled")

    def _find(self) -> None:
        """Find tasks whose launcher was killed before it could record their ids."""
        for task in self._plan.active:
            if task.submitting:
                name, count, index = task.submitting
                try:
                    ids = self._engine.find(name, count)
                except EngineUnreachable as error:
                    raise ConfigError(
                        f"{self._engine.name} doesn't answer, so it is unknown whether "
                        f"tasks of {self._plan.folder.parent} are queued there: {error}"
                    ) from error
                if ids:
                    task.ids.append(ids[index])
                task.submitting = None
        self._plan.write()

    def _submit_what_waits(self) -> None:
        waiting = [task for task in self._plan.active if not task.ids]
        if self._engine.at_once is not None:
            submitted = len(self._plan.active) - len(waiting)
            waiting = waiting[: max(self._engine.at_once - submitted, 0)]
        if waiting:
            self._submit(waiting)

    def _submit(self, tasks: list[PlannedTask]) -> None:
        name = uuid.uuid4().hex[:8]
        for index, task in enumerate(tasks):
            task.submitting = name, len(tasks), index
        self._plan.write()
        folder = str(self._plan.folder.parent)
        calls = [
            (task_main, (folder, task.number, task.payload, len(task.ids)))
            for task in tasks
        ]
        try:
            ids = self._engine.submit(calls, name)
        except Exception:
            for task in tasks:  # or the next launcher would look for them
                task.submitting = None
            self._plan.write()
            raise
        for task, given in zip(tasks, ids, strict=True):
            task.ids.append(given)
            task.submitting = None
        self._plan.write()
        self._pause = ASK_SECONDS

    def _read(self) -> None:
        """Pass on what the tasks have reported."""
        for task in self._plan.active:
            tail = self._tails.get(task.number)
            if tail is None:
                tail = self._tails[task.number] = Tail(self._plan.events(task.number))
            for event in tail.new():
                self._pause = ASK_SECONDS
                self._gone.pop(task.number, None)
                if event["event"] == "end":
                    if self._listener.unfinished(task):
                        why = "its task ended without reporting it"
                        self._lose(task, "failed", why)
                    else:
                        self._end(task, "done")
                elif event["event"] == "broken":
                    self._listener.say(event["told"])
                    self._lose(task, "failed", "its task can't run")
                else:
                    self._listener.event(task, event)

    def _ask(self) -> None:
        """Ask the engine for the states of the tasks."""
        tasks = [task for task in self._plan.active if task.ids]
        try:
            states = self._engine.states([task.id for task in tasks]) if tasks else {}
        except EngineUnreachable as error:
            if self._unreachable_since is None:
                self._unreachable_since = time.monotonic()
                self._listener.say(
                    f"{self._engine.name} doesn't answer ({error}); still trying"
                )
            return
        if self._unreachable_since is not None:
            self._unreachable_since = None
            self._listener.say(f"{self._engine.name} answers again")
        for task in tasks:
            state = states.get(task.id, ArrayTaskState("GONE", "", "", over=True))
            if state != self._states.get(task.number):
                self._states[task.number] = state
                self._pause = ASK_SECONDS
                self._listener.state(task, state)
            if not state.over:
                self._gone.pop(task.number, None)
                continue
            self._pause = ASK_SECONDS
            since = self._gone.setdefault(task.number, time.monotonic())
            if time.monotonic() - since >= self._engine.grace_seconds:
                self._read()  # it may have reported its end meanwhile
                if task.over is None and task.number in self._gone:
                    self._retry(task, state)

    def _retry(self, task: PlannedTask, state: ArrayTaskState) -> None:
        """Resubmit or give up a task that ended without reporting it."""
        del self._gone[task.number]
        if state.name == "CANCELLED":
            self._lose(task, "cancelled", f"task {task.id} was cancelled")
            return
        attempt, most = len(task.ids), self._retries + 1
        text = f"task {task.id} was killed: {state}, attempt {attempt} of {most}"
        if attempt < most:
            count = self._listener.unfinished(task)
            text += f"; retrying {count} unfinished job{'s' * (count != 1)}"
        self._listener.killed(task, text)
        if attempt >= most:
            why = f"its task was killed {attempt} times, the last time: {state}"
            self._lose(task, "failed", why)
            return
        self._states.pop(task.number, None)
        self._submit([task])

    def _lose(self, task: PlannedTask, over: str, why: str) -> None:
        self._end(task, over)
        self._listener.lost(task, why)

    def _end(self, task: PlannedTask, how: str) -> None:
        task.over = how
        self._plan.write()


def summary(states: Iterable[ArrayTaskState]) -> str:
    """Counts of states, such as `3 running, 5 pending (Resources)`."""
    counts: dict[str, int] = {}
    for state in states:
        name = "running" if state.name == "RUNNING" else str(state)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items())
