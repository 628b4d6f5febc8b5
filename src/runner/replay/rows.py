"""Compare the rows of a replay with the recorded ones, one after the other."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from runner.errors import TrainingStopped
from runner.settings import PROBE


class Differs(TrainingStopped):
    """The replay isn't like the record. The message names the first difference."""


class RecordEnds(TrainingStopped):
    """All rows of a run that was cut short are equal, and there are no more."""


class Rows:
    """Compares rows in order.

    Args:
      recorded: without `time/*`.
      finished: whether the run finished, so that the replay must not have more rows.
      tolerance: the largest relative difference of a value; None to compare all bits.
        NaN equals NaN in both cases. With a tolerance, what probes record may differ:
        nothing depends on it.
      probes: the names of those that the run ended with.

    Attributes:
      count: how many rows are equal so far.
      largest: the largest relative difference so far.
      place: the place of that difference, such as "validation/loss at step 10".
    """

    def __init__(
        self,
        recorded: Sequence[Mapping[str, Any]],
        finished: bool,
        tolerance: float | None,
        probes: Collection[str],
    ):
        self._recorded = recorded
        self._finished = finished
        self._tolerance = tolerance
        self._probes = probes
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
            raise Differs(f"step {new['step']} is logged now, but was not recorded")
        old = self._recorded[self.count]
        keys = [*old, *(key for key in new if key not in old)]
        different = [key for key in keys if not self._equal(key, old, new)]
        if different:
            raise Differs(_sentence(old, new, different))
        self.count += 1
        if self.count == len(self._recorded) and not self._finished:
            raise RecordEnds(f"the recorded run has no row after step {new['step']}")

    def end(self) -> None:
        """Check, after the last row of the replay, that the record has no more.

        Raises:
          Differs: it has more.
        """
        if self.count < len(self._recorded):
            step = self._recorded[self.count].get("step")
            raise Differs(f"step {step} was recorded, but is not logged now")

    def _equal(self, key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        if key not in old or key not in new:
            # A run may have been resumed with other probes: those of its first rows
            # are none now, and those of now are none in its first rows.
            name = key.removeprefix(PROBE).partition("/")[0]
            return key.startswith(PROBE) and (
                key not in old or name not in self._probes
            )
        if self._tolerance is not None and key.startswith(PROBE):
            return True  # what rounds a little differently may be another bucket
        if not all(isinstance(row[key], int | float) for row in (old, new)):
            return old[key] == new[key]
        a, b = float(old[key]), float(new[key])
        if self._tolerance is None or key == "step":
            return repr(a) == repr(b)  # -0.0 isn't 0.0, and NaN is NaN
        difference = relative(a, b)
        if difference > self.largest:
            self.largest, self.place = difference, f"{key} at step {new['step']}"
        return difference <= self._tolerance


def relative(a: float, b: float) -> float:
    """|a - b| over the larger one; infinite unless both are finite or the same."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def _sentence(
    old: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str]
) -> str:
    first, *others = keys
    was, now = old.get(first, "not recorded"), new.get(first, "not logged")
    more = f". Also different: {', '.join(others)}" if others else ""
    return f"at step {new['step']}, {first} was {was} and is {now}{more}"
