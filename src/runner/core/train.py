"""The training loop. It keeps the device busy and reads what it did one call late."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from runner.core import feed
from runner.core.optimization import Optimization
from runner.core.optimizers import Optimizer
from runner.core.pace import Pace
from runner.core.pipeline import Pipeline
from runner.core.program import Program, program
from runner.core.rows import Call, logged_steps, write_rows
from runner.core.static import Static
from runner.core.step import Values
from runner.data.order import Order
from runner.job import processes
from runner.job.checkpoint import Checkpoints, Snapshot, copied
from runner.job.interruption import Interruption
from runner.settings import TrainSettings


class Run(NamedTuple):
    """One job, ready to train: its program, its numbers and its length.

    Attributes:
      static: what is compiled; runs may share it.
      values: the numbers that are arguments of the compiled step.
      learning_rates: float32 [steps], before a plateau's scale.
      init_key: of the initial parameters.
      order: which examples each step uses.
      settings: the `train` section, complete and checked.
      config: the whole configuration, as it is recorded.
      optimizer: with the exact values of its float arguments.
      wanted: the optimization that the config asks for.
      toy: the run's pipeline of a toy model, for the optimizer probe.
    """

    static: Static
    values: Values
    learning_rates: np.ndarray
    init_key: jax.Array
    order: Order
    settings: TrainSettings
    config: dict[str, Any]
    optimizer: Optimizer
    wanted: Optimization
    toy: Pipeline

    @property
    def timetable(self) -> tuple[int, int, int]:
        """When it evaluates and logs: equal in runs that can train side by side."""
        settings = self.settings
        every = settings.eval_every_steps, settings.log_every_steps
        return len(self.learning_rates), *every


def compilation(run: Run) -> dict[str, Any]:
    """Compile `run`'s program, if need be, and say what that took, for the summary."""
    return compiled_facts(program(run.static, run.values))


def compiled_facts(compiled: Program) -> dict[str, Any]:
    """What the summary of a run tells of its program."""
    return {
        "compile_seconds": compiled.compile_seconds,
        "steps_per_call": compiled.capacity,
    }


def train(
    run: Run,
    write: Callable[[dict], None],
    checkpoints: Checkpoints | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Train to the end; `write` gets each row of metrics.jsonl as it is read.

    Row `step` s belongs to the s-th optimizer step, counted from 1: its training loss
    is that of the step's batch before the update, its learning rate the schedule's at
    s - 1 times a plateau's scale, its evaluation that of the parameters after it.

    Args:
      run: what is trained.
      write: called in the order of the steps.
      checkpoints: where it starts and when it is saved; by default the beginning and
        never.
      interruption: may end it after any call; by default nothing does.

    Raises:
      Preempted: `interruption` did.
      TrainingStopped: a training or evaluation loss is not finite and `train.on_nan` is
        `stop`.
    """
    compiled = program(run.static, run.values)
    saver = checkpoints or Checkpoints.none()
    feeder = feed.TrainFeed(
        run.static.dataset, run.order, compiled.mesh, compiled.capacity, saver.step
    )
    pace = Pace(saver.step)
    interruption = interruption or Interruption()
    with saver:
        for call in _calls(run, compiled, feeder, pace, saver, interruption):
            speed = pace.measure(call)
            write_rows(call.read(), run.settings.on_nan, speed, write)
            if call.snapshot is not None:
                saver.save(call.stop, call.snapshot, call.wanted)


def train_population(
    runs: Sequence[Run],
    writers: Sequence[Callable[[dict], None]],
    compiled: Program,
    checkpoints: Checkpoints | None = None,
    interruption: Interruption | None = None,
    going: Iterable[int] | None = None,
) -> Iterator[tuple[int, Exception]]:
    """`train` for runs of one program and timetable, side by side.

    Args:
      runs: as many as `compiled` has members, or fewer: copies of the last fill it up.
      writers: what `write` is for one run.
      compiled: the program of a population.
      checkpoints, interruption: as in `train`, of all of them together.
      going: the indices of those that aren't over already; by default all.

    Yields:
      the index of a run that is over before its time and why: TrainingStopped, or what
      its writer raised. It gets no further rows; the others go on.
    """
    members = len(compiled.totals["count"])
    filled = [*runs, *[runs[-1]] * (members - len(runs))]
    orders = [run.order for run in filled]
    saver = checkpoints or Checkpoints.none()
    feeder = feed.PopulationFeed(orders, compiled.mesh, compiled.capacity, saver.step)
    together = runs[0]._replace(
        learning_rates=np.stack([run.learning_rates for run in filled]),
        init_key=_stacked([run.init_key for run in filled]),
        values=_stacked([run.values for run in filled]),
    )
    pace = Pace(saver.step)
    left = set(range(len(runs)) if going is None else going)
    interruption = interruption or Interruption()
    with saver:
        for call in _calls(together, compiled, feeder, pace, saver, interruption):
            speed = pace.measure(call)
            read = call.read()
            for index in sorted(left):
                on_nan, write = runs[index].settings.on_nan, writers[index]
                try:
                    write_rows(read.member(index), on_nan, speed, write)
                except Exception as error:
                    left.remove(index)
                    yield index, error
            if not left:
                return
            if call.snapshot is not None:
                saver.save(call.stop, call.snapshot, call.wanted)


def _stacked(trees: list[Any]) -> Any:
    # A typed PRNG key is no NumPy array.
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(
        lambda *x: jnp.stack(x) if is_key(x[0]) else np.stack(x), *trees
    )


def _calls(
    run: Run,
    compiled: Program,
    feeder: Any,
    pace: Pace,
    saver: Checkpoints,
    interruption: Interruption,
) -> Iterator[Call]:
    """Dispatch all calls, handing on each one only when the next is under way.

    The learning rates of a population, [members, steps], have a dimension more than
    those of a run, and so has all that comes of them.

    Raises:
      Preempted: when all that was dispatched is handed on.
    """
    settings, dataset, mesh = run.settings, run.static.dataset, compiled.mesh
    *lead, steps = run.learning_rates.shape
    every = settings.eval_every_steps
    wanted = logged_steps(steps, settings)
    columns = feed.columns(dataset, dataset.train, mesh)
    eval_columns = feed.columns(dataset, dataset.eval, mesh)
    no_news: Any = np.full(lead, np.inf, np.float32)
    if saver.start is None:
        eval_loss = no_news
        carry = compiled.init(
            run.init_key, run.learning_rates[..., 0], run.values.hyperparameters
        )
    else:
        carry, eval_loss = saver.start.snapshot
    start, waiting, stops = saver.step, None, False
    while start < steps and not stops:
        evaluated = min(steps, (start // every + 1) * every)
        next_stop = min(evaluated, saver.next_stop(start))
        count = min(next_stop - start, compiled.capacity)
        if count > 1:
            most = processes.agreed(f"pace after {start}", pace.steps_a_call)
            count = min(count, most)
        stop = start + count
        rates = np.zeros((*lead, compiled.capacity), np.float32)
        rates[..., :count] = run.learning_rates[..., start:stop]
        logged = np.zeros(compiled.capacity, bool)
        logged[:count] = wanted[start:stop]
        carry, rows = compiled.train(
            carry, columns, feeder.take(count), rates, logged, np.int32(start),
            np.int32(count), eval_loss, run.values,
        )  # fmt: skip
        evaluation, eval_loss = None, no_news
        if stop == evaluated:
            totals = compiled.totals
            for batches in feed.eval_feed(dataset, mesh, compiled.eval_capacity):
                totals, evaluation = compiled.evaluate(
                    carry, eval_columns, batches, totals
                )
                eval_loss = evaluation["loss"]
        processes.dispatched((rows, evaluation))
        stops = stop < steps and interruption.must_stop()
        save = saver.wants(
            stop, evaluated=stop == evaluated, ends=stop == steps, interrupted=stops
        )
        # Now, since the next call is given the carry to write over.
        snapshot = None
        if save != "no":
            news = jax.device_put(eval_loss, mesh.own)
            snapshot = copied(Snapshot(carry, news))
        if waiting is not None:
            yield waiting
        waiting = Call(
            start, stop, wanted[start:stop], rows, evaluation, snapshot, save
        )
        start = stop
    if waiting is not None:
        yield waiting
    if stops:
        raise interruption.preempted()
