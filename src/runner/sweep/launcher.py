"""The settings that a sweep is launched with."""

from typing import Literal, NamedTuple

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from runner.sweep.job import Job

STRATEGIES = ("auto", "vmap", "loop")


class Search(NamedTuple):
    """A sweep whose jobs aren't known from the start, but come batch by batch.

    Attributes:
      keys: those that are searched.
      jobs: of all batches so far, by their fingerprints.
    """

    keys: list[str]
    jobs: dict[str, Job]


class Launcher(NamedTuple):
    """The settings of a Hydra launcher.

    Attributes:
      context: Hydra's.
      master: the configuration of the sweep as a whole.
      task: trains one job that can't be packed.
      strategy, max_members, executor, resume: of `hydra.launcher`.
    """

    context: HydraContext
    master: DictConfig
    task: TaskFunction
    strategy: str
    max_members: int | Literal["auto"]
    executor: str
    resume: bool
