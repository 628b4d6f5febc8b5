"""Checkpoints: what the next step of a run depends on, saved while it trains.

Orbax writes them, in the background, and renames each into place when it is complete,
with a checksum of each file in it. It is imported by the first save or restore, never
by a run that needs neither.
"""

import contextlib
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from runner.core.run import Wanted
from runner.core.snapshot import Snapshot, Start
from runner.errors import ConfigError, Unwritable
from runner.job.processes import Processes
from runner.job.restore import described, newest, steps, without_empty
from runner.settings import CheckpointSettings


class Checkpoints:
    """Decides when a run is saved, and saves it in the background.

    At most one save is in progress. A periodic one that falls due meanwhile is skipped:
    a resumed run then repeats a few more steps, whereas waiting would leave the device
    idle in every run. The best and last states can't be recreated, so saving them
    blocks.

    Args:
      folder: gets a folder for each checkpoint, named after its step.
      settings: the `checkpoint` section.
      objective: the metric that `settings.best` refers to.
      describe: returns the JSON that is saved beside the arrays, with the recorder's
        `best` and `final`. It is called when the rows up to that step are written.
      start: where training continues; None means the beginning.
      processes: those of the run, which agree on what is saved.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        objective: str,
        describe: Callable[[int], dict[str, Any]],
        start: Start | None = None,
        processes: Processes | None = None,
    ):
        self.start = start
        self._processes = processes or Processes()
        self.folder = folder
        self.settings = settings
        self._objective = objective
        self.describe = describe
        self._manager: Any = None
        self._handed = True  # no save is due between `wants` and `save`
        self._has_saved = start is not None
        self._has_failed = False
        self._last = 0.0
        self._best_step = self._best(start.record) if start else None

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        if self.start is not None and self._processes.is_first:
            _remove_after(self.folder, self.start.step)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the save in progress, unless Ctrl-C was pressed a second time.

        Raises:
          Unwritable: that save failed, and the block didn't.
        """
        if self._manager is not None and kind is not KeyboardInterrupt:
            try:
                with self._saving():
                    self._manager.wait_until_finished()
                    self._manager.close()
            except Unwritable as failed:
                if kind is None:
                    raise
                if not issubclass(kind, Unwritable):
                    print(f"warning: {failed}", file=sys.stderr)
            finally:
                # Again: what a failed save has begun goes on for a moment.
                for _attempt in range(10 if self._has_failed else 0):
                    time.sleep(0.05)
                    self._remove_half_written()
        self._manager = None

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Report all the ways in which a save can fail in one way."""
        try:
            yield
        except (OSError, ValueError) as error:  # the latter from TensorStore
            self._has_failed = True
            self._remove_half_written()
            raise Unwritable(self.folder, _reason(error)) from error

    def _remove_half_written(self) -> None:
        if self._processes.is_first:
            for half in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)

    @property
    def can_save(self) -> bool:
        """Whether the settings ask for any checkpoint at all."""
        periods = self.settings.every_steps, self.settings.every_minutes
        return any(periods) or self.settings.best or self.settings.last

    def wants(self, step: int, *, evaluated: bool, ends: bool, stops: bool) -> Wanted:
        """Decide whether `save` is called for `step`, at the end of a call.

        Args:
          evaluated: whether the step was followed by an evaluation.
          ends: whether it is the last step of the run.
          stops: whether training is about to stop before that.
        """
        has_saved = self._has_saved or not self._handed
        if ends and (self.settings.last or has_saved):
            return "always"
        if stops and self.can_save:
            return "always"
        if self._must_save(step):
            self._last = time.monotonic()
            self._handed = False
            return "always"
        return "if best" if evaluated and self.settings.best else "no"

    def _must_save(self, step: int) -> bool:
        periods = self.settings.every_steps, self.settings.every_minutes
        if not any(periods):
            return False
        due = self._is_due(step) and self._is_free()
        return self._processes.agree(f"save after {step}", due)

    def _is_due(self, step: int) -> bool:
        steps, minutes = self.settings.every_steps, self.settings.every_minutes
        if steps is not None and step % steps == 0:
            return True
        return minutes is not None and time.monotonic() - self._last >= 60 * minutes

    def _is_free(self) -> bool:
        is_saving = self._manager is not None and self._manager.is_saving_in_progress()
        return self._handed and not is_saving

    def save(self, step: int, snapshot: Snapshot, wanted: Wanted) -> None:
        """Start saving `snapshot`, after the rows up to `step` were written.

        Waits for the previous save if it is still in progress.

        Raises:
          Unwritable: the previous save failed, e.g. because the disk is full.
        """
        if wanted == "no":
            return
        record = self.describe(step)
        self._handed = True
        if wanted == "always" or self._best(record) == step:
            self.write(step, snapshot, record)

    def _best(self, record: dict[str, Any]) -> int | None:
        """The step of the best evaluation so far, if its state is kept."""
        if not self.settings.best:
            return None
        return record.get("best", {}).get(self._objective, {}).get("step")

    def write(self, step: int, snapshot: Snapshot, record: dict[str, Any]) -> None:
        """Start saving `snapshot` with `record`, as `describe` returned it at `step`.

        Raises:
          Unwritable: see `save`.
        """
        import orbax.checkpoint as ocp

        self._best_step = self._best(record)
        arrays = ocp.args.StandardSave(without_empty(snapshot))  # pyright: ignore
        record |= {"step": step, "arrays": described(snapshot)}
        record = ocp.args.JsonSave(record)  # pyright: ignore
        both = ocp.args.Composite(state=arrays, record=record)
        with self._saving():
            if self._manager is None:
                self._manager = self._open(ocp)
            self._manager.save(step, args=both, force=True)
        self._has_saved = True

    def best(self, target: Snapshot, program: dict) -> Any:
        """The carry of the best state; None unless that is kept.

        Args:
          target, program: see `newest`.
        """
        if self._best_step is None:
            return None
        if self._manager is not None:
            with self._saving():
                self._manager.wait_until_finished()
        if self._best_step not in steps(self.folder):
            print(f"warning: the best state, of step {self._best_step}, is in the "
                  "folder of the run that this one resumes, so the test splits are "
                  "evaluated with the last", file=sys.stderr)  # fmt: skip
            return None
        try:
            return newest(self.folder, self._best_step, target, program).snapshot.carry
        except ConfigError:  # `newest` has told why
            print(f"warning: the best state, of step {self._best_step}, can't be used, "
                  "so the test splits are evaluated with the last",
                  file=sys.stderr)  # fmt: skip
            return None

    def _open(self, ocp: Any) -> Any:
        from runner.job.checked_folder import CheckedFolder

        logging.getLogger("absl").addFilter(_is_news)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            cleanup_tmp_directories=True,
            temporary_path_class=CheckedFolder,
        )
        return ocp.CheckpointManager(self.folder.absolute(), options=options)

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Tell Orbax to keep the newest checkpoints and the best one."""
        newest = {c.step for c in checkpoints[-self.settings.keep :]}
        return [c.step in newest | {self._best_step} for c in checkpoints]


def _reason(error: OSError | ValueError) -> str:
    """The system's reason for which a save failed, where it is told."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    told = re.search(r"\[OS error \d+: \w+ ([^\]]+)\]", text)
    return told[1] if told else text[:300]


def _is_news(record: logging.LogRecord) -> bool:
    """Whether what is logged isn't a failure of Orbax, which it also raises."""
    return not (record.exc_info and "orbax" in record.pathname)


def _remove_after(folder: Path, step: int) -> None:
    """Remove later checkpoints: damaged, or replaced by what the run does now."""
    for later in steps(folder):
        if later > step:
            shutil.rmtree(folder / str(later))


def safe(rows: Path, step: int, folder: Path) -> str:
    """What a run that can't be written to any more has left.

    Args:
      rows: its metrics.jsonl.
      step: that of the last row.
      folder: of its checkpoints.
    """
    if not rows.exists():
        return "Nothing of the run is left"
    there = steps(folder)
    if not there:
        return (
            f"Its rows up to step {step} are safe, and no checkpoint was saved: the "
            "same command starts over"
        )
    return (
        f"Its rows up to step {step} and the checkpoint of step {there[-1]} are safe: "
        "the same command continues from there"
    )


def digest(rates: np.ndarray) -> str:
    """Hash the learning rates before a checkpoint, to compare them on resume."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(rates).tobytes()).hexdigest()[:16]
