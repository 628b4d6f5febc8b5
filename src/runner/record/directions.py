"""Which values of a metric are better, and the best ones."""

from collections.abc import Callable, Mapping
from typing import Any

from runner.settings import PROBE

# What the first edition, which didn't record it, knew of its metrics.
FIRST_EDITION = {"loss": "min", "accuracy": "max"}


def better(key: str, directions: Mapping[str, str | None]) -> int:
    """The direction in which a column improves: 1 higher, -1 lower, 0 neither.

    Args:
      key: of a row, such as "validation/accuracy" or "test/per_class_accuracy/3".
      directions: "min", "max" or None for each metric of the run, by name.
    """
    if key.startswith(PROBE):  # whatever it calls its numbers
        return 0
    name = key.partition("/")[2] or key
    direction = directions.get(name, directions.get(name.partition("/")[0]))
    return {"max": 1, "min": -1, None: 0}[direction]


def note_best(
    best: dict[str, dict[str, Any]], row: Mapping[str, Any], sign: Callable[[str], int]
) -> None:
    """Update `best`, {"value", "step"} of each column, after a row, the newest.

    Args:
      sign: the direction in which a column improves: see `better`.
    """
    for key, value in row.items():
        way = sign(key)
        if way and value == value:  # no NaN
            if key not in best or way * value > way * best[key]["value"]:
                best[key] = {"value": value, "step": row["step"]}
