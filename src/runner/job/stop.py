"""When a run ends before its last step because it is good, or no longer improves."""

import math
from collections.abc import Mapping

from runner.record.directions import better
from runner.settings import StopSettings


class Stop:
    """Decides from the evaluations of a run, in order, whether it ends.

    Args:
      settings: the `train.stop` section.
      directions: of the metrics of the run; see `runner.tasks.task.directions`.
    """

    def __init__(self, settings: StopSettings, directions: Mapping[str, str | None]):
        self._settings = settings
        self._sign = better(settings.metric, directions)
        self._best: float | None = None
        self._since = 0  # evaluations that were no better than the best

    @property
    def is_on(self) -> bool:
        """Whether the settings give any reason to end."""
        return self._settings.is_on

    def reason(self, row: Mapping[str, float]) -> str | None:
        """Why the run ends after `row`, or None if it continues.

        Rows without an evaluation decide nothing.
        """
        metric, target = self._settings.metric, self._settings.value
        if not self.is_on or metric not in row:
            return None
        value = row[metric]
        if target is not None and self._sign * (value - target) >= 0:
            return f"{metric} reached {target:g}"
        gain = math.inf if self._best is None else self._sign * (value - self._best)
        if gain > self._settings.min_delta and not math.isnan(value):
            self._best, self._since = value, 0
            return None
        self._since += 1
        patience = self._settings.patience
        if patience is not None and self._since >= patience:
            return f"{metric} has not improved for {self._since} evaluations"
        return None
