"""The interface to what starts tasks elsewhere and knows their states."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class ArrayTaskState(NamedTuple):
    """A task's state as reported by the engine.

    Attributes:
      name: such as PENDING, RUNNING, FAILED.
      reason: why it waits, or how it ended; may be empty.
      nodes: where it runs; may be empty.
      over: whether it has ended.
    """

    name: str
    reason: str
    nodes: str
    over: bool

    def __str__(self) -> str:
        if self.name == "RUNNING":
            return f"running on {self.nodes}"
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return self.name.lower().replace("_", " ") + reason


class EngineUnreachable(Exception):
    """The engine doesn't answer: the states of its tasks are unknown for now."""


class Engine(Protocol):
    """Slurm, or this machine.

    Attributes:
      name: such as "Slurm".
      grace_seconds: how long to wait for files after a task ends.
      at_once: how many tasks may be active at a time; None if the engine has a queue.
    """

    @property
    def name(self) -> str: ...
    @property
    def grace_seconds(self) -> float: ...
    @property
    def at_once(self) -> int | None: ...

    def submit(
        self, calls: Sequence[tuple[Callable, tuple[Any, ...]]], name: str
    ) -> list[str]:
        """Submit calls of functions, one per task; returns the id of each.

        Raises:
          ConfigError: it refuses them; says why.
        """
        ...

    def find(self, name: str, count: int) -> list[str] | None:
        """The ids of what was submitted under that name; None if nothing was."""
        ...

    def states(self, ids: Sequence[str]) -> dict[str, ArrayTaskState]:
        """The states of those tasks that it still knows.

        Raises:
          EngineUnreachable: it doesn't answer.
        """
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End tasks, wherever they are."""
        ...

    def log(self, task: str) -> Path:
        """The file with the output of a task's first process."""
        ...

    def script(self, count: int) -> str:
        """The script that would be submitted for `count` tasks."""
        ...
