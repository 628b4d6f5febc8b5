"""The training loop. It keeps the device busy and reads what it did one call late."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.config import TrainConfig
from runner.data import feed
from runner.data.order import Order
from runner.errors import TrainingStopped
from runner.frameworks.pipeline import Pipeline
from runner.optimization import Optimization
from runner.optimizers import Optimizer
from runner.program import Program, Static, program
from runner.step import Values

# A call is made longer until it takes this many seconds, so that the loop of a small
# model is rarely interrupted and that of a large one still shows progress.
CALL_SECONDS = 0.2
RATE_SECONDS = 1.0  # that time/steps_per_second is averaged over


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
    settings: TrainConfig
    config: dict[str, Any]
    optimizer: Optimizer
    wanted: Optimization
    toy: Pipeline


class _Call(NamedTuple):
    """Results on their way: rows of the steps after `start`, maybe an evaluation."""

    start: int
    stop: int
    rows: dict[str, jax.Array]
    evaluation: dict[str, jax.Array] | None


def compilation(run: Run) -> dict[str, Any]:
    """Compile `run`'s program, if need be, and say what that took, for the summary."""
    compiled = program(run.static, run.values)
    return {
        "compile_seconds": compiled.compile_seconds,
        "steps_per_call": compiled.capacity,
    }


def train(run: Run, write: Callable[[dict], None]) -> None:
    """Train to the end; `write` gets each row of metrics.jsonl as it is read.

    Row `step` s belongs to the s-th optimizer step, counted from 1: its training loss
    is that of the step's batch before the update, its learning rate the schedule's at
    s - 1 times a plateau's scale, its evaluation that of the parameters after it.

    Raises:
      TrainingStopped: a training or evaluation loss is not finite and `train.on_nan` is
        `stop`.
    """
    compiled = program(run.static, run.values)
    reader = _Reader(run, write)
    for call in _calls(run, compiled, reader):
        reader.read(call)


def _calls(run: Run, compiled: Program, reader: "_Reader") -> Iterator[_Call]:
    """Dispatch all calls, handing on each one only when the next is under way."""
    settings, dataset, mesh = run.settings, run.static.dataset, run.static.mesh
    steps, every = len(run.learning_rates), settings.eval_every_steps
    columns = feed.columns(dataset, dataset.train, mesh)
    eval_columns = feed.columns(dataset, dataset.eval, mesh)
    feeder = feed.TrainFeed(dataset, run.order, mesh, compiled.capacity, start=0)
    carry = compiled.init(
        run.init_key, run.learning_rates[0], run.values.hyperparameters
    )
    eval_loss: Any = np.float32(np.inf)
    start, waiting = 0, None
    while start < steps:
        next_stop = min(steps, (start // every + 1) * every)
        count = min(next_stop - start, compiled.capacity, reader.steps_a_call)
        stop = start + count
        rates = np.zeros(compiled.capacity, np.float32)
        rates[:count] = run.learning_rates[start:stop]
        logged = np.zeros(compiled.capacity, bool)
        logged[:count] = reader.logged[start:stop]
        carry, rows = compiled.train(
            carry, columns, feeder.take(count), rates, logged, np.int32(start),
            np.int32(count), eval_loss, run.values,
        )  # fmt: skip
        evaluation, eval_loss = None, np.float32(np.inf)
        if stop == next_stop:
            totals = compiled.totals
            for batches in feed.eval_feed(dataset, mesh, compiled.eval_capacity):
                totals, evaluation = compiled.evaluate(
                    carry, eval_columns, batches, totals
                )
                eval_loss = evaluation["loss"]
        if waiting is not None:
            yield waiting
        waiting = _Call(start, stop, rows, evaluation)
        start = stop
    if waiting is not None:
        yield waiting


class _Reader:
    """Turns finished calls into rows, and learns how long a call should be.

    Attributes:
      logged: bool [steps], those that get a row.
      steps_a_call: how many the next call may take.
    """

    def __init__(self, run: Run, write: Callable[[dict], None]):
        self._on_nan = run.settings.on_nan
        self._write = write
        self.logged = _logged(len(run.learning_rates), run.settings)
        self._reads = deque([(time.perf_counter(), 0)])  # when so many steps were done
        self.steps_a_call = 16

    def read(self, call: _Call) -> None:
        rows = {name: np.asarray(value) for name, value in call.rows.items()}
        evaluation = call.evaluation or {}
        evaluation = {f"eval/{k}": float(v) for k, v in evaluation.items()}
        steps_per_second = self._measure(call)
        bad = ~np.isfinite(rows["train/loss"][: call.stop - call.start])
        for i in np.flatnonzero(self.logged[call.start : call.stop] | bad):
            step = call.start + 1 + int(i)
            row = {"step": step} | {name: float(v[i]) for name, v in rows.items()}
            row |= evaluation if step == call.stop else {}
            stops = self._on_nan == "stop" and _not_finite(row)
            if stops or self.logged[step - 1]:
                self._write(row | {"time/steps_per_second": steps_per_second})
            if stops:
                raise TrainingStopped(
                    f"{stops} is {row[stops]} at step {step}. The rows "
                    "up to it are kept. Try a lower optimizer.learning_rate, or "
                    "train.on_nan=continue; debug=find_nan names the operation"
                )

    def _measure(self, call: _Call) -> float:
        """Steps per second over the last second or so; adapts `steps_a_call`."""
        now = time.perf_counter()
        seconds, count = now - self._reads[-1][0], call.stop - call.start
        if count == self.steps_a_call and seconds < CALL_SECONDS / 2:
            self.steps_a_call *= 2
        elif seconds > CALL_SECONDS * 2:
            self.steps_a_call = max(1, count // 2)
        self._reads.append((now, call.stop))
        while len(self._reads) > 2 and self._reads[1][0] < now - RATE_SECONDS:
            self._reads.popleft()
        then, done = self._reads[0]
        return (call.stop - done) / (now - then)


def _not_finite(row: dict[str, float]) -> str | None:
    """The name of a loss in `row` that is not finite."""
    for name in ("train/loss", "eval/loss"):
        if not math.isfinite(row.get(name, 0.0)):
            return name
    return None


def _logged(steps: int, settings: TrainConfig) -> np.ndarray:
    done = np.arange(1, steps + 1)
    logged = (done == 1) | (done == steps) | (done % settings.log_every_steps == 0)
    return logged | (done % settings.eval_every_steps == 0)
