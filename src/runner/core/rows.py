"""From what a call of the program gives to the rows of metrics.jsonl."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.errors import TrainingStopped
from runner.job.checkpoint import Snapshot
from runner.settings import TrainSettings


class Call(NamedTuple):
    """Results on their way: rows of the steps after `start`, maybe an evaluation.

    `logged`, bool [stop - start], says which steps metrics.jsonl has a row of.
    `snapshot` is what a checkpoint after `stop` is made of, if one is `wanted`.
    """

    start: int
    stop: int
    logged: np.ndarray
    rows: dict[str, Any]
    evaluation: dict[str, Any] | None
    snapshot: Snapshot | None
    wanted: str

    def read(self) -> "Call":
        """On the host, all but the snapshot."""
        return jax.device_get(self._replace(snapshot=None))

    def member(self, index: int) -> "Call":
        """One run's part of a population's results."""
        evaluation = self.evaluation and {
            name: value[index] for name, value in self.evaluation.items()
        }
        rows = {name: value[index] for name, value in self.rows.items()}
        return self._replace(rows=rows, evaluation=evaluation)


def write_rows(
    call: Call, on_nan: str, steps_per_second: float, write: Callable[[dict], None]
) -> None:
    """Turn a finished call of one run into rows.

    Raises:
      TrainingStopped: a loss is not finite and `on_nan` is `stop`.
    """
    rows, evaluation = call.rows, call.evaluation or {}
    evaluation = {f"eval/{k}": float(v) for k, v in evaluation.items()}
    bad = ~np.isfinite(rows["train/loss"][: call.stop - call.start])
    for i in np.flatnonzero(call.logged | bad):
        step = call.start + 1 + int(i)
        row = {"step": step} | {name: float(v[i]) for name, v in rows.items()}
        row |= evaluation if step == call.stop else {}
        stops = on_nan == "stop" and _not_finite(row)
        if stops or call.logged[i]:
            write(row | {"time/steps_per_second": steps_per_second})
        if stops:
            raise TrainingStopped(
                f"{stops} is {row[stops]} at step {step}. The rows "
                "up to it are kept. Try a lower optimizer.learning_rate, or "
                "train.on_nan=continue; debug=find_nan names the operation"
            )


def _not_finite(row: dict[str, float]) -> str | None:
    """The name of a loss in `row` that is not finite."""
    for name in ("train/loss", "eval/loss"):
        if not math.isfinite(row.get(name, 0.0)):
            return name
    return None


def logged_steps(steps: int, settings: TrainSettings) -> np.ndarray:
    """Which of a run's steps metrics.jsonl has a row of: bool [steps]."""
    done = np.arange(1, steps + 1)
    logged = (done == 1) | (done == steps) | (done % settings.log_every_steps == 0)
    return logged | (done % settings.eval_every_steps == 0)
