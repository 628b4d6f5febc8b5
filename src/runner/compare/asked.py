"""What is asked of a comparison: the metric, its direction and the factor."""

import statistics

import polars as pl
import polars.selectors as cs

from runner.compare.columns import copies, is_fact, is_result, varying
from runner.compare.load import CHOICES
from runner.errors import ConfigError, did_you_mean
from runner.record.directions import FIRST_EDITION, better
from runner.settings import FACT


def is_higher_better(table: pl.DataFrame, metric: str) -> bool:
    """Whether higher values of `metric` are better, as the runs have recorded it.

    Raises:
      ConfigError: they haven't, or they contradict each other.
    """
    prefix, recorded = f"{FACT}directions.", {}
    for column in table.select(cs.starts_with(prefix)):
        values = column.drop_nulls().unique().to_list()
        if len(values) > 1:
            raise ConfigError(
                f"{column.name}: of the runs, some want it to be lower, some higher"
            )
        recorded[column.name.removeprefix(prefix)] = values[0] if values else None
    direction = better(metric, recorded or FIRST_EDITION)
    if not direction:
        raise ConfigError(
            f"--metric {metric}: the runs don't say whether lower or higher values are "
            "better, so nothing can be ranked by it. Metric.better of the function "
            "that metrics.<name>._target_ names would"
        )
    return direction > 0


def metric_of(table: pl.DataFrame, metric: str | None) -> str:
    """`metric`, or the objective of most runs.

    Raises:
      ConfigError: the runs have no such metric.
    """
    names = [c.removeprefix("final.") for c in table.columns if c.startswith("final.")]
    if metric is None:
        objectives = table["objective"].drop_nulls() if "objective" in table else []
        metric = statistics.mode([*objectives] or ["validation/loss"])
    if metric not in names:
        raise ConfigError(
            f"--metric {metric} is not a metric of these runs, which have "
            f"{', '.join(names) or 'none'}.{did_you_mean(metric, names)}"
        )
    return metric


def factor_of(table: pl.DataFrame, by: str | None) -> str:
    """`by`, or the factor that the runs are most likely about.

    Raises:
      ConfigError: the runs have no such key.
    """
    varied = varying(table)
    if by is None:
        settings = [k for k in varied if not is_fact(k)]
        others = [k for k in settings if k not in {"seed", *copies(table)}]
        likely = ("optimizer", "schedule", "framework", "model", *CHOICES, *others)
        return next((k for k in likely if k in settings), "optimizer")
    names = list(dict.fromkeys([*CHOICES, *varied]))
    keys = [c for c in table.columns if not is_result(c)]
    if by not in keys:
        raise ConfigError(
            f"--by {by} is not a key of these runs. It may be "
            f"{', '.join(names)}.{did_you_mean(by, [*names, *keys])}"
        )
    return by
