"""The rows of a replay against the recorded ones, as they come."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.errors import TrainingStopped


class Differs(TrainingStopped):
    """The replay isn't the recorded run. The message says where that shows first."""


class RecordEnds(TrainingStopped):
    """All rows of a run that was cut short are equal; there is no more to compare."""


class Rows:
    """Compares rows in order.

    Args:
      recorded: without `time/*`.
      finished: the run ended in good order, so the replay must have no more rows.
      tolerance: the largest relative difference of a value; None for none at all, to
        the last bit. NaN equals NaN in both.

    Attributes:
      count: rows found equal.
      largest: the largest relative difference so far.
      place: where that was, such as "eval/loss at step 10".
    """

    def __init__(
        self,
        recorded: Sequence[Mapping[str, Any]],
        finished: bool,
        tolerance: float | None,
    ):
        self._recorded = recorded
        self._finished = finished
        self._tolerance = tolerance
        self.count = 0
        self.largest = 0.0
        self.place = ""

    def compare(self, row: Mapping[str, Any]) -> None:
        """Compare the next row of the replay.

        Raises:
          Differs, RecordEnds.
        """
        new = {k: v for k, v in row.items() if not k.startswith("time/")}
        if self.count == len(self._recorded):
            raise Differs(f"step {new['step']} is logged now, but not in the record")
        old = self._recorded[self.count]
        keys = [*old, *(key for key in new if key not in old)]
        different = [key for key in keys if not self._equal(key, old, new)]
        if different:
            raise Differs(_told(old, new, different))
        self.count += 1
        if self.count == len(self._recorded) and not self._finished:
            raise RecordEnds(f"the recorded run has no row after step {new['step']}")

    def end(self) -> None:
        """Tell that the replay has no more rows.

        Raises:
          Differs: the record has.
        """
        if self.count < len(self._recorded):
            step = self._recorded[self.count].get("step")
            raise Differs(f"step {step} is in the record, but not logged now")

    def _equal(self, key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        if key not in old or key not in new:
            return False
        if not all(isinstance(row[key], int | float) for row in (old, new)):
            return old[key] == new[key]
        a, b = float(old[key]), float(new[key])
        if self._tolerance is None or key == "step":
            return repr(a) == repr(b)  # tells -0.0 from 0.0, and NaN is NaN
        difference = relative(a, b)
        if difference > self.largest:
            self.largest, self.place = difference, f"{key} at step {new['step']}"
        return difference <= self._tolerance


def relative(a: float, b: float) -> float:
    """|a - b| over the larger of both; infinite unless both are finite or the same."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def _told(old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]) -> str:
    first, *others = keys
    told = (
        f"at step {new['step']}, {first} was {old.get(first, 'not recorded')} and is "
    )
    told += str(new.get(first, "not logged"))
    return told + (f". Also different: {', '.join(others)}" if others else "")
