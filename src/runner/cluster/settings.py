"""What `cluster` asks for, as plain values."""

import re
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError

# Set in the processes of a task, which don't submit what they run.
IN_TASK = "RUNNER_IN_TASK"
_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")


@dataclass(frozen=True)
class Settings:
    """The keys of conf/cluster/none.yaml, which explains them."""

    engine: str | None
    partition: str | None
    account: str | None
    qos: str | None
    nodes: int
    gpus: int
    cpus: int | None
    memory: str | None
    time: int | str
    sbatch: dict[str, Any]
    setup: list[str]
    array_parallelism: int
    max_tasks: int
    warning_seconds: int
    retries: int
    dry_run: bool

    def __post_init__(self):
        if self.engine == "local" and self.nodes > 1:
            raise ConfigError(
                f"cluster.nodes={self.nodes} must be 1 with cluster=local, which has "
                "this machine alone"
            )

    @property
    def minutes(self) -> int:
        found = minutes(self.time)
        assert found is not None  # build has checked it
        return found


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
