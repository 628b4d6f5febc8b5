"""Runs that are built and trained in this process, which share what they can."""

from collections.abc import Callable

from omegaconf import DictConfig

from runner.core.run import Host, Run
from runner.job.build import Built, build
from runner.job.session import Session

# Of all tests of this process: those that train the same program compile it once.
SESSION = Session(most=64)


def build_job(cfg: DictConfig) -> Built:
    return build(cfg, SESSION)


def train_run(run: Run, write: Callable[[dict], None]) -> None:
    """Train to the end; `write` gets each row.

    Raises:
      TrainingStopped, or what `write` raises.
    """
    SESSION.train(run, Host(lambda index, row: write(row)))
