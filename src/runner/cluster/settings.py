"""What of the `cluster` section is more than a value."""

import re
from typing import Any

# Set in the processes of a task, which don't submit what they run.
IN_TASK = "RUNNER_IN_TASK"
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")


def minutes(time: Any) -> int | None:
    """The minutes, rounded up, in a duration of Slurm's; None if it isn't one.

    Its forms are minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes and days-hours:minutes:seconds (`man sbatch`, --time).
    """
    match = _DURATION.fullmatch(str(time))
    if match is None:
        return None
    days, *parts = match.groups()
    given = [int(part) for part in parts if part is not None]
    if days is None and len(given) < 3:  # they begin with the minutes
        given = [0, *given]
    hours, mins, seconds = [*given, 0, 0][:3]
    total = ((int(days or 0) * 24 + hours) * 60 + mins) * 60 + seconds
    return -(-total // 60) or None
