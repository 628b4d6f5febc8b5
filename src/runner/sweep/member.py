"""A job of a sweep while it is built, trained and recorded."""

from collections.abc import Callable
from dataclasses import dataclass

from runner.core.run import Run
from runner.job.prepared import Prepared
from runner.sweep.job import Job


@dataclass
class Member:
    """A job in progress, and what it calls.

    Attributes:
      prepared: what is trained and recorded.
      started: called when the job starts.
      advanced: called with the fraction of its steps that is done.
      ended: called when everything, W&B too, has finished; its error is in the job.
    """

    job: Job
    prepared: Prepared
    started: Callable[[Job], None]
    advanced: Callable[[Job, float], None]
    ended: Callable[[Job], None]

    @property
    def run(self) -> Run:
        return self.prepared.run

    def open(self) -> bool:
        """Enter the recorder; False if that fails, and with it the job."""
        try:
            self.prepared.recorder.__enter__()
        except Exception as error:
            self.job.error = error
            self.ended(self.job)
            return False
        self.prepared.recall()
        self.started(self.job)
        return True

    def row(self, row: dict) -> None:
        self.prepared.recorder.row(row)
        self.advanced(self.job, row["step"] / len(self.run.learning_rates))

    def close(self, error: BaseException | None = None) -> None:
        """Leave the recorder, and wait for W&B."""
        if isinstance(error, Exception):
            self.job.error = error
        kind = type(error) if error else None
        trace = error.__traceback__ if error else None
        try:
            self.prepared.recorder.__exit__(kind, error, trace)
        except Exception as closing:
            self.job.error = self.job.error or closing
        if error is None and self.job.error is None:
            self.job.result = self.prepared.result
        if error is None or self.job.error:  # not if the sweep is interrupted
            self.ended(self.job)
