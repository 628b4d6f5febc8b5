"""A task's reports on its jobs: one file per task, which it alone writes."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.config.explain import explain, reason
from runner.errors import ConfigError, JobFailed
from runner.record.files import MetricsFile, from_json, to_json
from runner.record.secrets import scrub


class Events:
    """Reports on the jobs of a task, line by line. Later attempts append.

    Args:
      path: the file.
      task: the engine's id of this attempt.

    Attributes:
      started_before, failed_before: the jobs that did so in an earlier attempt.
    """

    def __init__(self, path: Path, task: str):
        self._path = path
        self._lock = threading.Lock()  # jobs end in threads of their own
        before = Tail(path).new()
        self.started_before = {e["job"] for e in before if e["event"] == "running"}
        self.failed_before = {e["job"] for e in before if e["event"] == "failed"}
        MetricsFile(path).close()  # cuts off what a killed attempt has half written
        self._append(event="attempt", task=task)

    def running(self, job: str) -> None:
        self._append(event="running", job=job)

    def done(self, job: str, result: float | None) -> None:
        """Report that `job` is done, by this process or an earlier one."""
        self._append(event="done", job=job, result=result)

    def failed(self, job: str, error: BaseException, told: str) -> None:
        """Report that `job` failed; `told` is the message for the terminal."""
        line = " ".join(explain(error).split())
        if not isinstance(error, JobFailed):  # which names another process's error
            line = f"{type(error).__name__}: {line}"
        self._append(event="failed", job=job, error=line, told=told)

    def broken(self, error: BaseException) -> None:
        """Report that the task can't run, and that a retry couldn't either."""
        self._append(event="broken", told=f"a task failed:{reason(error)}")

    def requeued(self) -> None:
        """Report that the task was asked to stop and will be started again."""
        self._append(event="requeued")

    def end(self) -> None:
        """Report that nothing is left to do."""
        self._append(event="end")

    def _append(self, **event: Any) -> None:
        line = json.dumps(to_json(scrub(event)), allow_nan=False) + "\n"
        # Closed each time, since only then a network file system shows it to others.
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line)


class Tail:
    """Reads what has been added to a file."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = 0

    def lines(self) -> list[bytes]:
        """The complete lines added since the last call.

        Raises:
          OSError: the file can't be read.
        """
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        return data.splitlines()

    def new(self) -> list[Mapping[str, Any]]:
        """The events added since the last call; none while there is no file.

        Raises:
          ConfigError: the file can't be read, or a line isn't an event.
        """
        try:
            return [self._event(line) for line in self.lines()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"{self._path} can't be read: {error.strerror}"
            ) from error

    def _event(self, line: bytes) -> Mapping[str, Any]:
        try:
            event = from_json(json.loads(line))
            if isinstance(event["event"], str):
                return event
        except (ValueError, TypeError, KeyError):
            pass
        text = line[:80].decode(errors="replace")
        raise ConfigError(f"{self._path} has a line that isn't an event: {text!r}")
