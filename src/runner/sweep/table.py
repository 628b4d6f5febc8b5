"""The table at the end of a sweep: its settings by their results, over seeds."""

import contextlib
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from runner.errors import ConfigError
from runner.record.console import console, print_table
from runner.record.directions import better
from runner.record.files import read_object
from runner.record.secrets import named
from runner.record.terminal import number, short
from runner.settings import SETTINGS, makes_no_difference
from runner.sweep.compose import names
from runner.sweep.job import Job

_ROWS = 12
_WIDTH = 80  # of a table in a file; on a terminal it is the terminal's
_LEAST = 24  # of which the settings get at least this before other metrics get any
_LONG = re.compile(r"(?<==)\d+\.\d{4,}(e-?\d+)?(?=\s|$)")


class _Row(NamedTuple):
    """A setting, and what its jobs, one a seed, ended with."""

    name: str
    results: list[float]
    others: list[Mapping[str, float]]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.results)

    @property
    def deviation(self) -> str:
        values = self.results
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return ""  # a NaN or an infinity has none
        return f"{statistics.stdev(values):.2g}"

    def other(self, metric: str) -> str:
        values = [other[metric] for other in self.others if metric in other]
        return number(metric, statistics.fmean(values)) if values else ""


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
    rows.sort(key=lambda row: (math.isnan(row.mean), sign * row.mean))
    width = out.width if out.is_terminal else _WIDTH
    header, *lines = zip(*_columns(rows[:_ROWS], objective, width), strict=True)
    print_table(header, lines, out, right=slice(-1))
    if len(rows) > _ROWS:
        out.print(f"... and {len(rows) - _ROWS} more")
    failed = len(jobs) - len(done)
    if failed:
        out.print(
            f"{failed} of {len(jobs)} jobs failed; see error.txt or summary.json in "
            "their folders"
        )
    factors = [name for key in settings for name in _factor(key)]
    by = f" --by {factors[0]}" if factors else ""
    command = f"python -m runner.compare {folder}{by}"
    out.print(f"compare with: {command}", soft_wrap=True)


def _factor(key: str) -> list[str]:
    """What compare calls the swept `key`; nothing if it can't compare by it.

    A preset is no setting of its own, and what is only recorded makes no difference.
    """
    *group, place = names(key)
    is_setting = place.partition(".")[0] in SETTINGS
    if not is_setting or makes_no_difference(place):
        return []
    return [f"{place}._target_" if group else place]


def is_higher_better(objective: str, jobs: Sequence[Job]) -> bool:
    """Whether higher values of the metric are better, by what the jobs recorded."""
    for job in jobs:
        if job.error is None:
            with contextlib.suppress(OSError, KeyError, ConfigError):
                return better(objective, _directions(job)) > 0
    return False


def _directions(job: Job) -> dict[str, str | None]:
    return read_object(job.folder / "provenance.json")["directions"]


def _columns(rows: Sequence[_Row], objective: str, width: int) -> list[list[str]]:
    """The columns, each with its title: as many metrics as fit beside the settings."""
    columns = [[objective, *(number(objective, row.mean) for row in rows)]]
    if any(len(row.results) > 1 for row in rows):
        columns.append(["sd", *(row.deviation for row in rows)])
        columns.append(["runs", *(str(len(row.results)) for row in rows)])
    settings = ["setting", *_shortened([row.name for row in rows])]
    room = width - sum(map(_wide, columns)) - min(_wide(settings), _LEAST)
    metrics = dict.fromkeys(m for row in rows for other in row.others for m in other)
    for metric in metrics:
        title = metric.removeprefix("validation/")
        column = [title, *(row.other(metric) for row in rows)]
        if metric != objective and room >= _wide(column):
            room -= _wide(column)
            columns.append(column)
    return [*columns, settings]


def _wide(column: Sequence[str]) -> int:
    return max(map(len, column)) + 2


def _rows(jobs: Sequence[Job], settings: Sequence[str]) -> list[_Row]:
    """The jobs of each setting."""
    rows: dict[str, _Row] = {}
    for job in jobs:
        given = [o for o in job.overrides if o.partition("=")[0] in settings]
        name = " ".join(map(named, given)) or "all seeds"
        row = rows.setdefault(name, _Row(name, [], []))
        assert job.result is not None
        row.results.append(job.result)
        row.others.append(_final(job))
    return list(rows.values())


def _final(job: Job) -> dict[str, float]:
    """The final value of each validation metric that is one number with a direction."""
    with contextlib.suppress(OSError, ValueError, KeyError, ConfigError):
        directions = _directions(job)
        final = read_object(job.folder / "summary.json")["final"]
        return {
            metric: float(value)
            for metric, value in final.items()
            if re.fullmatch(r"validation/[^/]+", metric) and better(metric, directions)
        }
    return {}


def _shortened(names: Sequence[str]) -> list[str]:
    """`names` with four digits a number, where that leaves them different."""
    texts = [_LONG.sub(lambda long: short(float(long[0])), name) for name in names]
    return texts if len(set(texts)) == len(set(names)) else list(names)
