"""The recorder: the one object to which training reports what happens."""

import contextlib
import functools
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from runner import signals
from runner.errors import (
    ConfigError,
    Preempted,
    Refused,
    TrainingStopped,
    Unwritable,
)
from runner.record import checksums
from runner.record.directions import better, note_best
from runner.record.files import (
    MetricsFile,
    overwrite_json,
    read_metrics,
    write_json,
    writing,
)
from runner.record.format import FORMAT
from runner.record.mirrors.follow import Spec
from runner.record.mirrors.helper import Mirror
from runner.record.secrets import error_line, scrub, scrub_message
from runner.record.terminal import Progress, print_summary


class Kept(NamedTuple):
    """The rows that a run keeps from an earlier process.

    Attributes:
      path: the metrics file with them; if it isn't the run's own, they are copied.
      step: the last one to keep; later rows are discarded.
      seconds: how long the earlier process took for them.
      size: of the rows up to that step, in bytes; None if nobody knows it.
    """

    path: Path
    step: int
    seconds: float
    size: int | None = None


class Recorder:
    """Writes a run's folder, has it mirrored and shows it on the terminal.

    A context manager: however its block ends, summary.json says so, and the trackers
    read it there. The folder is the truth, so an error in writing it is raised; an
    error of a tracker is reported once and otherwise ignored.

    Args:
      folder: created if missing.
      config: the whole resolved config, for config.json. Secrets are redacted.
      provenance: see `runner.record.provenance`; with the `directions` of the metrics.
      trackers: those that get a copy; see `mirrors.follow.Spec`.
      total_steps: the length of the run in optimizer steps.
      quiet: show neither progress nor table, and wait for no tracker at the end.
      kept: continue after these rows, which may be replaced until the recorder is
        entered; None refuses a folder that has any.

    Attributes:
      provenance: written when the recorder is entered.
      final: the last value of each metric so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: dict[str, Any],
        provenance: dict[str, Any],
        trackers: Mapping[str, Spec],
        total_steps: int,
        quiet: bool,
        kept: Kept | None = None,
    ):
        self.folder = folder
        self._config = scrub(config | {"format": FORMAT})
        self.provenance = scrub(provenance)
        self.mirror = Mirror(folder, trackers, config)
        self._total_steps = total_steps
        self._quiet = quiet
        self.kept = kept
        self._progress: Progress | None = None
        self._metrics: MetricsFile | None = None
        self._digest = ""  # of all rows, at the end
        self.final: dict[str, Any] = {}
        self._best: dict[str, dict[str, Any]] = {}
        directions = provenance["directions"]
        self._better = functools.cache(lambda key: better(key, directions))
        self._extra: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Open the folder and start its mirrors.

        Raises:
          ConfigError: the folder can't be written, or holds the rows of another run,
            or another process writes there.
        """
        kept: list[dict[str, Any]] = []
        self._started = time.monotonic()
        path = self.folder / "metrics.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.kept:
                kept = kept_rows(self.kept)
                self._started -= self.kept.seconds
            elif path.exists() and path.stat().st_size:
                raise ConfigError(
                    f"run folder {self.folder}: {path.name} there holds the rows of "
                    "an earlier run, and two runs in one file can't be told apart. Set "
                    "hydra.run.dir (hydra.sweep.dir with -m) to another folder."
                )
            # First, since it is locked: two processes would spoil one folder.
            is_own = self.kept is None or self.kept.path.resolve() == path.resolve()
            self._metrics = MetricsFile(path, len(kept) if is_own else 0)
            for row in kept:
                self.track(row)
                if not is_own:
                    self._metrics.write(row)
            for name in ("error.txt", checksums.FILE):
                (self.folder / name).unlink(missing_ok=True)
            with signals.undisturbed():
                write_json(self.folder / "config.json", self._config)
                write_json(self.folder / "provenance.json", self.provenance)
                self._write_summary("running")
                # These stay as they are; a killed run's other files are of any length.
                checksums.write(self.folder, checksums.RECORDS[:2])
                signals.last_word(self, self._leave)
        except BlockingIOError:
            raise ConfigError(
                f"run folder {self.folder}: another process is writing there. Wait for "
                "it, or set hydra.run.dir (hydra.sweep.dir with -m) to another folder"
            ) from None
        except OSError as error:
            if self._metrics:  # else it would stay locked as long as `error` lives
                self._metrics.close()
            raise ConfigError(
                f"run folder {self.folder}: it must be writable, but: "
                f"{error.filename or path}: {error.strerror or error}"
            ) from error
        if not self._quiet:
            self._progress = Progress(self._total_steps)
        self.mirror.start()
        return self

    def row(self, row: dict[str, Any]) -> None:
        """Record one row; `step` counts optimizer steps. Don't change it afterwards.

        Raises:
          Unwritable: metrics.jsonl can't be, e.g. because the disk is full. It ends
            with the row before.
        """
        assert self._metrics is not None
        with writing(self.folder):
            self._metrics.write(row)
        self.track(row)
        if self._progress:
            self._progress.row(row)

    def test(self, numbers: Mapping[str, float]) -> None:
        """Record the numbers of the test splits, which come once, at the end."""
        self.final.update(numbers)

    def state(self) -> dict[str, Any]:
        """The facts about the rows so far that resuming needs."""
        return {
            "best": {key: dict(best) for key, best in self._best.items()},
            "wall_seconds": self._wall_seconds(),
            **self.rows(),
        }

    def rows(self) -> dict[str, Any]:
        """The length and the checksum of metrics.jsonl, which the first process has."""
        return {"rows": self._metrics.written()} if self._metrics else {}

    def best_step(self, metric: str) -> int | None:
        """The step of the best value of `metric` so far, if it has had one."""
        return self._best[metric]["step"] if metric in self._best else None

    def finish(self, extra: Mapping[str, Any]) -> None:
        """Add facts to summary.json, such as `compile_seconds`, when the block ends."""
        self._extra.update(extra)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._progress:
            self._progress.close()
        status = self._ends(error)
        try:
            with writing(self.folder), signals.undisturbed():
                assert self._metrics is not None
                self._digest = self._metrics.written()["sha256"]
                self._metrics.close()
                if error and status in ("failed", "refused"):
                    self._extra["error"] = error_line(error, most=None)
                    write_trace(self.folder, error)
                summary = self._write_summary(status)
                is_last = status == "finished" and not self._quiet
                signals.last_word(self, _finished if is_last else None)
        except Unwritable as told:
            if error is None:
                raise
            print(f"error: {told}", file=sys.stderr)
            return
        if not self._quiet:
            self.mirror.wait()
            rows = self.folder / "metrics.jsonl"
            own = {"run folder": str(self.folder), "metrics": str(rows)}
            print_summary(summary, own | self.mirror.locations())

    def _leave(self, error: BaseException) -> None:
        """Record that the process ends at once, which is why nothing is closed."""
        self._write_summary(self._ends(error))

    def _ends(self, error: BaseException | None) -> str:
        status, exit_code = _ending(error)
        if exit_code:
            self._extra["exit_code"] = exit_code
        return status

    def follow(self) -> None:
        """Track rows without recording them, where another process records."""
        self._started = time.monotonic()
        for row in kept_rows(self.kept) if self.kept else []:
            self.track(row)

    def track(self, row: dict[str, Any]) -> None:
        """Update the final and the best values. Rows come in the order of steps."""
        self.final.update(row)
        note_best(self._best, row, self._better)

    def _write_summary(self, status: str) -> dict[str, Any]:
        final = dict(self.final)
        summary = {
            "status": status,
            "steps": final.pop("step", 0),
            "final": final,
            "best": self._best,
            "wall_seconds": self._wall_seconds(),
            "compile_seconds": None,
            **self._extra,
        }
        path = self.folder / "summary.json"
        try:
            write_json(path, summary)
            if self._digest:
                known = {"metrics.jsonl": self._digest}
                checksums.write(self.folder, checksums.RECORDS, known)
        except OSError:
            overwrite_json(path, summary)
        return summary

    def _wall_seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)


def write_trace(folder: Path, error: BaseException) -> None:
    """Write error.txt, unless the message of `error`, in summary.json, says all."""
    if not isinstance(error, ConfigError | TrainingStopped):
        text = scrub_message("".join(traceback.format_exception(error)))
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text(text, encoding="utf-8")


def kept_rows(kept: Kept) -> list[dict[str, Any]]:
    """The rows that `kept` keeps.

    Raises:
      ConfigError: the file is damaged.
    """
    if kept.step <= 0 or not kept.path.exists():
        return []
    try:
        rows = read_metrics(kept.path, kept.size)
        return [row for row in rows if row["step"] <= kept.step]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the rows in {kept.path} can't be kept: {error}") from error


def _ending(error: BaseException | None) -> tuple[str, int]:
    """The status and exit code of a run whose block ended with `error`."""
    if error is None:
        return "finished", 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130  # as a shell reports it
    if isinstance(error, Preempted):
        return "preempted", int(str(error.code))
    if isinstance(error, SystemExit):  # also how a handler of SIGTERM ends a run
        code = error.code if isinstance(error.code, int) else 1
        return "interrupted", code or 1  # 0 in mid-training isn't a finished run
    return "refused" if isinstance(error, Refused) else "failed", 1


def _finished(error: BaseException) -> int | None:
    """The exit status of a run that has finished before a scheduler ends it."""
    is_asked = isinstance(error, Preempted) and error.code != 130
    return 0 if is_asked else None
