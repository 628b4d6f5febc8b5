"""Which values of a metric are better."""

from collections.abc import Mapping

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
