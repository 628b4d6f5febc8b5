"""The table at the end of a sweep: its jobs by their results, over seeds."""

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from runner.record.recorder import better
from runner.record.terminal import number
from runner.sweep.job import Job

ROWS = 12


def print_table(
    jobs: Sequence[Job],
    keys: Sequence[str],
    folder: Path,
    objective: str,
    stream: TextIO | None = None,
) -> None:
    """Print the best `ROWS` settings, what failed, and how to compare them.

    Args:
      jobs: of the whole sweep, skipped ones too.
      keys: in which they differ. Jobs that differ in the seed alone are one row.
      folder: the sweep's.
      objective: the metric that the results are of.
    """
    out: TextIO = stream or sys.stderr
    settings = [key for key in keys if key != "seed"]
    done = [job for job in jobs if job.error is None]
    sign = -1 if better(objective) > 0 else 1

    def order(row):
        mean = row[1]
        return math.isnan(mean), sign * mean

    rows = sorted(_rows(done, settings), key=order)
    seeds = any(count > 1 for *_, count in rows)
    header = [objective, *(["sd", "runs"] if seeds else []), "of"]
    lines = [header]
    for name, mean, deviation, count in rows[:ROWS]:
        told = [number(objective, mean)]
        if seeds:
            told += ["" if math.isnan(deviation) else f"{deviation:.2g}", str(count)]
        lines.append([*told, name])
    if rows:
        _print_columns(lines, out)
    if len(rows) > ROWS:
        print(f"... and {len(rows) - ROWS} more", file=out)
    failed = len(jobs) - len(done)
    if failed:
        print(f"{failed} of {len(jobs)} jobs failed; see error.txt or summary.json in "
              "their folders", file=out)  # fmt: skip
    by = f" --by {settings[0].lstrip('+')}" if settings else ""
    print(f"compare with: python -m runner.compare {folder}{by}", file=out)


def _rows(
    jobs: Sequence[Job], settings: Sequence[str]
) -> list[tuple[str, float, float, int]]:
    """Name, mean, standard deviation and number of the jobs of each setting."""
    results: dict[str, list[float]] = {}
    for job in jobs:
        told = [o for o in job.overrides if o.partition("=")[0] in settings]
        assert job.result is not None
        results.setdefault(" ".join(told) or "all seeds", []).append(job.result)
    return [
        (
            name,
            statistics.fmean(values),
            # Of a NaN or an infinity there is none.
            statistics.stdev(values) if _are_several(values) else math.nan,
            len(values),
        )
        for name, values in results.items()
    ]


def _are_several(values: Sequence[float]) -> bool:
    return len(values) > 1 and all(map(math.isfinite, values))


def _print_columns(lines: Sequence[Sequence[str]], out: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        *numbers, name = (f"{c:>{w}}" for c, w in zip(line, widths, strict=True))
        print("  ".join([*numbers, name.strip()]), file=out)
