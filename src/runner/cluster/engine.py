"""What starts tasks elsewhere and knows how they are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class State(NamedTuple):
    """How a task is, in the engine's words.

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


class Silent(Exception):
    """The engine doesn't answer. How its tasks are isn't known, for now."""


class Engine(Protocol):
    """Slurm, or this machine.

    Attributes:
      name: such as "Slurm".
      grace_seconds: for how long files may come to light after the end of their task.
      at_once: how many tasks may be submitted before others are over; None if the
        engine has a queue.
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
        """Submit calls of functions, one a task; returns the id of each.

        Raises:
          ConfigError: it refuses them; says why.
        """
        ...

    def find(self, name: str, count: int) -> list[str] | None:
        """The ids of what was submitted by that name, if it was."""
        ...

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """The states of those tasks that it still knows.

        Raises:
          Silent: it doesn't answer.
        """
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End tasks, wherever they are."""
        ...

    def log(self, task: str, rank: int = 0) -> Path:
        """The file with what a process of a task has printed."""
        ...

    def script(self, count: int) -> str:
        """What would be submitted for so many tasks."""
        ...
