"""The table at the end of a sweep: its settings by their results, over seeds."""

import contextlib
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runner.errors import ConfigError
from runner.record.console import console, print_table
from runner.record.directions import better, recorded
from runner.record.secrets import named
from runner.record.terminal import number
from runner.sweep.job import Job

_ROWS = 12


def print_results(
    jobs: Sequence[Job],
    keys: Sequence[str],
    folder: Path,
    objective: str,
    higher_is_better: bool,
    stream: TextIO | None = None,
) -> None:
    """Print the best settings, how many jobs failed, and how to compare them.

    Args:
      jobs: all jobs of the sweep, also those that an earlier process has done.
      keys: where they differ. Jobs that differ in the seed alone share a row.
      folder: of the sweep.
      objective: the name of the metric in `Job.result`.
      higher_is_better: of that metric.
      stream: stderr by default.
    """
    out = console(stream or sys.stderr)
    settings = [key for key in keys if key != "seed"]
    done = [job for job in jobs if job.error is None]
    sign = -1 if higher_is_better else 1
    rows = _rows(done, settings)
    rows.sort(key=lambda row: (math.isnan(row[1]), sign * row[1]))
    seeds = any(count > 1 for *_, count in rows)
    header = [objective, *(["sd", "runs"] if seeds else []), "setting"]
    lines = []
    for name, mean, deviation, count in rows:
        line = [number(objective, mean)]
        if seeds:
            line += ["" if math.isnan(deviation) else f"{deviation:.2g}", str(count)]
        lines.append([*line, name])
    print_table(header, lines, out, right=slice(-1), most=_ROWS)
    failed = len(jobs) - len(done)
    if failed:
        out.print(
            f"{failed} of {len(jobs)} jobs failed; see error.txt or summary.json in "
            "their folders"
        )
    by = f" --by {settings[0].lstrip('+')}" if settings else ""
    command = f"python -m runner.compare {folder}{by}"
    out.print(f"compare with: {command}", soft_wrap=True)


def is_higher_better(objective: str, jobs: Sequence[Job]) -> bool:
    """Whether higher values of the metric are better, by what the jobs recorded."""
    for job in jobs:
        if job.error is None:
            with contextlib.suppress(OSError, ConfigError):
                return better(objective, recorded(job.folder)) > 0
    return False


def _rows(
    jobs: Sequence[Job], settings: Sequence[str]
) -> list[tuple[str, float, float, int]]:
    """Name, mean, standard deviation and number of the jobs of each setting."""
    results: dict[str, list[float]] = {}
    for job in jobs:
        given = [o for o in job.overrides if o.partition("=")[0] in settings]
        setting = map(named, given)
        assert job.result is not None
        results.setdefault(" ".join(setting) or "all seeds", []).append(job.result)
    return [
        (
            name,
            statistics.fmean(values),
            # A NaN or an infinity has none.
            statistics.stdev(values) if _are_several(values) else math.nan,
            len(values),
        )
        for name, values in results.items()
    ]


def _are_several(values: Sequence[float]) -> bool:
    return len(values) > 1 and all(map(math.isfinite, values))
