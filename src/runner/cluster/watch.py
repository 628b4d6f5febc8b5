"""Submits the tasks of a plan and watches them until all are over."""

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from runner.cluster.array_task import run
from runner.cluster.engine import Engine, Silent, State
from runner.cluster.events import Tail
from runner.cluster.plan import Plan, Task
from runner.errors import ConfigError

EVENTS_SECONDS = 0.5  # between two looks at the files
# Between two questions to the engine: soon after something happened, then seldom.
ASK_SECONDS, LONGEST_ASK_SECONDS = 2.0, 30.0


class Listener(Protocol):
    """Whoever wants to know."""

    def event(self, task: Task, event: Mapping[str, Any]) -> None:
        """A task tells of a job: see `Events`."""

    def state(self, task: Task, state: State) -> None:
        """The engine's state of a task has changed."""

    def say(self, text: str) -> None:
        """Something worth a line."""

    def killed(self, task: Task, text: str) -> None:
        """A task ended without having said so; `text` tells of it."""

    def left(self, task: Task) -> int:
        """How many jobs of a task haven't ended."""
        ...

    def lost(self, task: Task, why: str) -> None:
        """The jobs of a task that haven't ended won't; `over` says how it ended."""

    def look(self) -> None:
        """Called now and then."""


class Watch:
    """The tasks of a plan that aren't over, from the queue to their ends.

    A task that ends without having said so is submitted again, `retries` times.
    """

    def __init__(self, engine: Engine, plan: Plan, retries: int, listener: Listener):
        self._engine = engine
        self._plan = plan
        self._retries = retries
        self._listener = listener
        self._tails: dict[int, Tail] = {}
        self._states: dict[int, State] = {}
        self._gone: dict[int, float] = {}  # since when a task seems to be over
        self._silent_since: float | None = None
        self._pause = ASK_SECONDS

    def run(self) -> None:
        """Return when every task is over.

        Raises:
          ConfigError: the engine refuses a task, or doesn't tell of an earlier one.
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
            self._listener.look()
            if self._plan.active:
                time.sleep(EVENTS_SECONDS)

    def cancel(self) -> None:
        """End all tasks."""
        self._engine.cancel([task.id for task in self._plan.active if task.ids])
        for task in self._plan.active:
            self._over(task, "cancelled")

    def _find(self) -> None:
        """Find what a launcher submitted that was killed before it could note it."""
        for task in self._plan.active:
            if task.submitting:
                name, count, index = task.submitting
                try:
                    ids = self._engine.find(name, count)
                except Silent as error:
                    raise ConfigError(
                        f"{self._engine.name} doesn't answer, so whether tasks of "
                        f"{self._plan.folder.parent} wait there isn't known: {error}"
                    ) from error
                if ids:
                    task.ids.append(ids[index])
                task.submitting = None
        self._plan.write()

    def _submit_what_waits(self) -> None:
        waiting = [task for task in self._plan.active if not task.ids]
        if self._engine.at_once is not None:
            under_way = len(self._plan.active) - len(waiting)
            waiting = waiting[: max(self._engine.at_once - under_way, 0)]
        if waiting:
            self._submit(waiting)

    def _submit(self, tasks: list[Task]) -> None:
        name = uuid.uuid4().hex[:8]
        for index, task in enumerate(tasks):
            task.submitting = name, len(tasks), index
        self._plan.write()
        folder = str(self._plan.folder.parent)
        calls = [
            (run, (folder, task.number, task.payload, len(task.ids))) for task in tasks
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
        """Hand on what the tasks have told."""
        for task in self._plan.active:
            tail = self._tails.get(task.number)
            if tail is None:
                tail = self._tails[task.number] = Tail(self._plan.events(task.number))
            for event in tail.new():
                self._pause = ASK_SECONDS
                self._gone.pop(task.number, None)
                if event["event"] == "end":
                    if self._listener.left(task):
                        self._lose(task, "failed", "its task doesn't tell of it")
                    else:
                        self._over(task, "done")
                elif event["event"] == "broken":
                    self._listener.say(event["told"])
                    self._lose(task, "failed", "its task can't run")
                else:
                    self._listener.event(task, event)

    def _ask(self) -> None:
        """Ask the engine how the tasks are."""
        tasks = [task for task in self._plan.active if task.ids]
        try:
            states = self._engine.states([task.id for task in tasks]) if tasks else {}
        except Silent as error:
            if self._silent_since is None:
                self._silent_since = time.monotonic()
                told = f"{self._engine.name} doesn't answer ({error}); still trying"
                self._listener.say(told)
            return
        if self._silent_since is not None:
            self._silent_since = None
            self._listener.say(f"{self._engine.name} answers again")
        for task in tasks:
            state = states.get(task.id, State("GONE", "", "", over=True))
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
                self._read()  # its last words, if any, count
                if task.over is None and task.number in self._gone:
                    self._ended(task, state)

    def _ended(self, task: Task, state: State) -> None:
        """A task is over and hasn't said that it is done."""
        del self._gone[task.number]
        if state.name == "CANCELLED":
            self._lose(task, "cancelled", f"task {task.id} was cancelled")
            return
        attempt, most = len(task.ids), self._retries + 1
        told = f"task {task.id} was killed: {state}, attempt {attempt} of {most}"
        if attempt < most:
            left = self._listener.left(task)
            told += f"; what it left undone, {left} job{'s' * (left != 1)}, is next"
        self._listener.killed(task, told)
        if attempt >= most:
            why = f"its task was killed {attempt} times, the last time: {state}"
            self._lose(task, "failed", why)
            return
        self._states.pop(task.number, None)
        self._submit([task])

    def _lose(self, task: Task, over: str, why: str) -> None:
        self._over(task, over)
        self._listener.lost(task, why)

    def _over(self, task: Task, how: str) -> None:
        task.over = how
        self._plan.write()


def summary(states: Iterable[State]) -> str:
    """Such as `3 running, 5 pending (Resources)`."""
    counts: dict[str, int] = {}
    for state in states:
        told = "running" if state.name == "RUNNING" else str(state)
        counts[told] = counts.get(told, 0) + 1
    return ", ".join(f"{count} {told}" for told, count in counts.items())
