"""How a job that failed is told of: in one message, or with its traceback."""

import traceback

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.config.explain import explain
from runner.errors import ConfigError, JobFailed, TrainingStopped

# Told in one message. Everything else is a bug, ours or a user's, with its traceback.
MISTAKES = (
    ConfigError,
    TrainingStopped,
    JobFailed,
    HydraException,
    OmegaConfBaseException,
)


_told: set[int] = set()  # by id: who keeps the error keeps all that its frames hold


def was_told(error: BaseException) -> bool:
    """Whether `told` has said all of it."""
    return id(error) in _told


def told(name: object, error: BaseException) -> str:
    """What to print of the job `name` of a sweep when it fails."""
    return f"job {name} failed:{described(error)}"


def described(error: BaseException) -> str:
    """What comes after the colon."""
    _told.add(id(error))
    if isinstance(error, MISTAKES):
        return f" {explain(error)}"
    return "\n" + "".join(traceback.format_exception(error))
