"""plan.json: which task has which jobs, and how it ended."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runner.errors import ConfigError
from runner.record.files import read_object, write_json, writing

# Set in the processes of a task, which run jobs instead of submitting them.
IN_TASK = "RUNNER_IN_TASK"


@dataclass
class PlannedTask:
    """The jobs that one task trains.

    Attributes:
      number: counts the tasks of a folder from 0.
      jobs: their names in the ledger.
      payload: the name of the file with its `Payload`.
      ids: the engine's, one for each submission.
      submitting: the name of a submission whose ids aren't known yet, its size and the
        task's index in it; None if there is none.
      over: how it ended: done, failed or cancelled; None until then.
    """

    number: int
    jobs: list[str]
    payload: str
    ids: list[str] = field(default_factory=list)
    submitting: tuple[str, int, int] | None = None
    over: str | None = None

    @property
    def id(self) -> str:
        return self.ids[-1]


def _is_whole(task: PlannedTask) -> bool:
    texts = [*task.jobs, task.payload, *task.ids]
    return type(task.number) is int and all(isinstance(text, str) for text in texts)


class Plan:
    """The tasks of a run or a sweep, including those of earlier launchers.

    Only the launcher writes it. The folder `tasks` beside it has a file of events for
    each task, which only the task writes, and `logs` has its output.

    Args:
      folder: the run's or the sweep's.

    Raises:
      ConfigError: plan.json can't be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute() / "cluster"
        self._path = self.folder / "plan.json"
        self.tasks: list[PlannedTask] = []
        if self._path.exists():
            try:
                found = read_object(self._path)
                tasks = [PlannedTask(**task) for task in found["tasks"]]
                if not all(_is_whole(task) for task in tasks):
                    raise ValueError("a task is of another shape")
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise ConfigError(f"{self._path} can't be read: {error}") from error
            # A task that was never submitted counts as not planned.
            self.tasks = [task for task in tasks if task.ids or task.submitting]

    @property
    def active(self) -> list[PlannedTask]:
        """The tasks that haven't ended."""
        return [task for task in self.tasks if task.over is None]

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def add(self, jobs: Sequence[str], payload: str) -> PlannedTask:
        number = max((task.number for task in self.tasks), default=-1) + 1
        task = PlannedTask(number, list(jobs), payload)
        self.tasks.append(task)
        return task

    def events(self, number: int) -> Path:
        return self.folder / "tasks" / f"{number}.jsonl"

    def write(self) -> None:
        with writing(self._path):
            (self.folder / "tasks").mkdir(parents=True, exist_ok=True)
            write_json(self._path, {"tasks": [asdict(task) for task in self.tasks]})
