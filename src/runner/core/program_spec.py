"""What a program is made from."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from runner.core.mesh import Mesh
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline
from runner.core.probe import Probe
from runner.core.step import TrainStep
from runner.data.dataset import Dataset
from runner.tasks.task import Task


class ProgramSpec(NamedTuple):
    """Everything that a program is made from, except its arguments.

    Attributes:
      description: plain values that identify the program; runs with equal ones share
        it. `key` is their hash.
      init, train_step, eval_step: those of `runner.core.step`, each traced only once.
      probe: gives more numbers of a logged step; None without `probes`.
      probes: the section of the configuration, which `key` depends on too.
      steps_per_call: the most; None leaves it to the rule of `choose`.
      reference: makes the pipeline that a witness computes with.
      canonical: whether all pipelines of its model start from the same values.
      optimizer: that of its pipeline.
      warm: whether its runs start from values of their own.
    """

    description: dict[str, Any]
    pipeline: Pipeline
    init: Any
    train_step: TrainStep
    eval_step: Any
    task: Task
    dataset: Dataset
    mesh: Mesh
    averaging: bool
    microbatches: int
    steps_per_call: int | None
    reference: Callable[[], Pipeline]
    canonical: bool
    optimizer: Optimizer
    warm: bool
    probe: Probe | None
    probes: dict[str, Any]

    @property
    def key(self) -> str:
        return key_of(self.description, self.probes)


def key_of(description: dict[str, Any], probes: dict[str, Any]) -> str:
    """The name of a program: a hash of its `description` and `probes`."""
    described = description | ({"probes": probes} if probes else {})
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
