"""A run, ready to train, and the host that its loop calls."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from runner.core.choose import Choice
from runner.core.optimizer_spec import OptimizerSpec
from runner.core.program_spec import ProgramSpec
from runner.core.snapshot import Snapshot
from runner.core.step import Values
from runner.core.timetable import Timetable
from runner.core.warm_start import WarmStart
from runner.data.order import Order
from runner.settings import TrainSettings


class Run(NamedTuple):
    """One job, ready to train: its program, its numbers and its length.

    Attributes:
      spec: what is compiled; runs may share it.
      values: the numbers that are arguments of the compiled step.
      learning_rates: float32 [steps], before a plateau's scale.
      init_key: PRNG key of the initial parameters.
      start: values that replace some of them; None if there are none.
      order: which examples each step uses.
      settings: the `train` section, complete and checked.
      config: the whole configuration, as recorded.
      optimizer: the optimization that the configuration asks for.
      hyperparameters: the exact values of its float arguments.
      choice: between ways to train it that round differently.
    """

    spec: ProgramSpec
    values: Values
    learning_rates: np.ndarray
    init_key: jax.Array
    start: WarmStart | None
    order: Order
    settings: TrainSettings
    config: dict[str, Any]
    optimizer: OptimizerSpec
    hyperparameters: dict[str, float]
    choice: Choice

    @property
    def init_arguments(self) -> tuple:
        """The arguments of `runner.core.step.init`'s function."""
        rates, numbers = self.learning_rates[..., 0], self.values.hyperparameters
        own = () if self.start is None else (self.start,)
        return self.init_key, rates, numbers, *own

    @property
    def timetable(self) -> Timetable:
        """Its length and its intervals."""
        settings, save = self.settings, self.config["checkpoint"]["every_steps"]
        every = settings.eval_every_steps, settings.log_every_steps, save
        # A population's learning rates have a leading member axis.
        return Timetable(self.learning_rates.shape[-1], *every)


# Whether a checkpoint is saved: in any case, if the evaluation is the best, or not.
Wanted = Literal["always", "if best", "no"]


@dataclass(frozen=True)
class Host:
    """The functions that the loop calls. By default a run is alone and saves nothing.

    Attributes:
      write: gets the index of a run and a row of its metrics, in order of the steps.
      wants: whether to save the state after a step at the end of a call: (step,
        evaluated=, ends=, stops=) -> Wanted. `ends`: it is the last of the run;
        `stops`: training is about to stop before that.
      save: gets a snapshot after a step, once all rows up to it are written, and
        whether to save it.
      best: returns the carry of the best state, or None to test the last one.
      finish: gets the index of a run that reached its end, the state that it ends with
        (`params`, those that evaluations use, and `model_state`, as NumPy arrays), and
        the numbers of its test splits.
      stop: gets the index of a run and a row that was written; True if the run ends
        with it, at an evaluation.
      look: gets the index of a run, the row of an evaluation that was written, and the
        state after it, as `finish` does.
      looks: whether `look` does anything.
      may_stop: whether `stop` is ever True.
      may_shrink: whether a population of which half has ended is left.
      stopping: an exception to end with, at the end of a call, or None.
      agree: returns process 0's value under a name, on every process of the run.
      dispatched: called with results that wait for other processes.
    """

    write: Callable[[int, dict[str, Any]], None]
    wants: Callable[..., Wanted] = lambda step, **when: "no"
    save: Callable[[int, Snapshot, Wanted], None] = lambda step, snapshot, wanted: None
    best: Callable[[], Any] = lambda: None
    finish: Callable[[int, dict[str, Any], dict[str, float]], None] = (
        lambda index, state, numbers: None
    )
    stop: Callable[[int, dict[str, Any]], bool] = lambda index, row: False
    look: Callable[[int, dict[str, Any], dict[str, Any]], None] = (
        lambda index, row, state: None
    )
    looks: bool = False
    may_stop: bool = False
    may_shrink: bool = False
    stopping: Callable[[], BaseException | None] = lambda: None
    agree: Callable[[str, Any], Any] = lambda name, value: value
    dispatched: Callable[[Any], None] = lambda results: None


class Witness:
    """Sees calls of the loop as they are dispatched and read. This one ignores them.

    Nothing that is trained depends on it.
    """

    def before(
        self,
        start: int,
        stop: int,
        carry: Any,
        batches: Any,
        eval_loss: Any,
        active: Collection[int],
    ) -> None:
        """See a call that is about to be dispatched, and takes `carry` over.

        Args:
          start, stop: the steps done before and after it.
          carry: the state before it.
          batches: those of its steps.
          eval_loss: of an evaluation before it.
          active: the indices of the runs that haven't ended.
        """

    def after(
        self, carry: Any, evaluation: Any, begun: dict[str, dict[str, Any]]
    ) -> None:
        """See what the call has given.

        Args:
          carry: the state after it.
          evaluation: the numbers of an evaluation after it.
          begun: of an evaluation after it, the numbers after the first call, by split
            and name.
        """

    def read(self, call: Any) -> None:
        """See the results of a `runner.core.call.Call`, on the host.

        Raises:
          Refused: the run doesn't do what its configuration says.
        """

    def settle(self) -> None:
        """Wait until it has judged all calls that were read.

        Raises:
          Refused: the run doesn't do what its configuration says.
        """


BLIND = Witness()
