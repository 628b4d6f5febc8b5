"""A call of the loop: some steps of a run, as they were dispatched."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.core.program import Program
from runner.core.run import Wanted
from runner.core.snapshot import Snapshot
from runner.core.step import NORMS, of_block_ends
from runner.errors import TrainingStopped
from runner.settings import PROBE


class Call(NamedTuple):
    """Results in flight: rows of the steps after `start`, maybe an evaluation.

    `dispatched` is when its program was there to be called, by `time.perf_counter`.
    `logged`, bool [stop - start], says which steps get a row in metrics.jsonl. `rows`
    are the program's, whose norms and probes are those of the last step of each block.
    `first` is the row of step 1 with them, if it isn't the last of its block.
    `snapshot` is for a checkpoint after `stop`, if one is `wanted`, and for runs that
    end there. `carry` is the state after the last call of a run, else None: the next
    call takes it over.
    """

    start: int
    stop: int
    dispatched: float
    logged: np.ndarray
    rows: dict[str, Any]
    first: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    snapshot: Snapshot | None
    wanted: Wanted
    carry: Any

    def read(self) -> "Call":
        """The results on the host, without the states, each number by its name."""
        read = jax.device_get(self._replace(snapshot=None, carry=None))
        return read._replace(rows=_by_name(read.rows), first=_by_name(read.first))

    def own(self, program: Program, index: int) -> "Call":
        """The results of the run of an index."""
        parts = self.rows, self.first, self.evaluation
        rows, first, evaluation = program.own(parts, index)
        return self._replace(rows=rows, first=first, evaluation=evaluation)


def rows(call: Call, on_nan: str, steps_per_second: float) -> Iterator[dict[str, Any]]:
    """The rows for metrics.jsonl of a call of one run, after `read`.

    Raises:
      TrainingStopped: a loss is not finite and `on_nan` is `stop`.
    """
    evaluation = {name: float(v) for name, v in (call.evaluation or {}).items()}
    bad = ~np.isfinite(call.rows["train/loss"])
    block = len(bad) // len(call.rows[NORMS[0]])
    picked = np.flatnonzero(call.logged | bad)
    # As a list at once, which is much faster than one number after the other.
    columns = {
        name: numbers[picked // block if of_block_ends(name) else picked].tolist()
        for name, numbers in call.rows.items()
    }
    for n, i in enumerate(picked.tolist()):
        step = call.start + 1 + i
        row: dict[str, Any] = {"step": step}
        row |= {name: column[n] for name, column in columns.items()}
        for name in filter(of_block_ends, columns):
            if name.startswith(PROBE) and not call.logged[i]:  # wasn't computed
                del row[name]
            elif (i + 1) % block and step == 1 and call.first:
                row[name] = call.first[name][0].tolist()
            elif (i + 1) % block:
                del row[name]
        row |= evaluation if step == call.stop else {}
        ends = on_nan == "stop" and _not_finite(row)
        if ends or call.logged[i]:
            yield row | {"time/steps_per_second": steps_per_second}
        if ends:
            try_this = (
                "Try a lower optimizer.learning_rate, look at the data"
                if step > 1 or ends != "train/loss"
                else "No update was made before, so look at the data, the initial "
                "values and the loss"
            )
            raise TrainingStopped(
                f"{ends} is {row[ends]} at step {step}. The rows up to it are kept. "
                f"{try_this}, or train.on_nan=continue; debug=find_nan names the "
                "operation"
            )


def _by_name(rows: Any) -> Any:
    """Rows, if there are any, whose probes aren't joined."""
    if rows is None or PROBE not in rows:
        return rows
    others = {name: numbers for name, numbers in rows.items() if name != PROBE}
    return rows[PROBE].apart() | others


def _not_finite(row: dict[str, float]) -> str | None:
    """The name of a loss in `row` that is not finite."""
    for name, value in row.items():
        is_loss = name.endswith("/loss") and not name.startswith(PROBE)
        if is_loss and not math.isfinite(value):
            return name
    return None
