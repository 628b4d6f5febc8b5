"""All findings about a set of runs, so that the terminal and the page agree."""

import statistics
from typing import NamedTuple

import polars as pl

from runner.compare.attribution import Attribution, attribute
from runner.compare.columns import (
    cell_keys,
    default_by,
    is_result,
    texts,
    tuned_keys,
    varying,
)
from runner.compare.controlled import Control, control
from runner.compare.load import CHOICES, SEEDS, Runs
from runner.compare.statistics import Comparison, Group, compare, groups
from runner.compare.tuning import Target, Tuning, reach, tune
from runner.errors import ConfigError, did_you_mean, few
from runner.record.directions import FIRST_EDITION, better


class Analysis(NamedTuple):
    """What was computed from the finished runs.

    Attributes:
      by: the column of `Runs.table` whose values are compared, such as "optimizer".
      metric: such as "validation/loss"; its last value, `final.<metric>`, is compared.
      higher_is_better: whether a higher value of the metric is better.
      control: which keys vary with `by`, and whether the comparison is controlled.
      groups: one for each value of `by`, the best mean first.
      crossed: the columns that vary within the groups, other than the seed and the
        tuned keys. A cell is a combination of their values.
      comparisons: of each pair of groups, over all cells.
      cells: the same within each cell; empty if nothing is crossed.
      tuning: what each group tried, and which setting it is compared at.
      target: the value of the metric that `targets` are about; None without one.
      targets: steps and seconds to `target`, one for each group; empty without one.
      attribution: the share of the variance that each varying factor explains.
      used: one row for each run in the statistics (finished, and at its group's best
        setting), the best group first: `run`, `group`, `cell`, `setting` (text),
        `seed`, and `value`, the final metric.
      warnings: one line each; what could not be read comes first.
    """

    by: str
    metric: str
    higher_is_better: bool
    control: Control
    groups: tuple[Group, ...]
    crossed: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    cells: tuple[Comparison, ...]
    tuning: Tuning
    target: float | None
    targets: tuple[Target, ...]
    attribution: tuple[Attribution, ...]
    used: pl.DataFrame
    warnings: tuple[str, ...]


def analyse(
    runs: Runs,
    by: str | None = None,
    metric: str | None = None,
    target: float | None = None,
    budget: int | None = None,
) -> Analysis:
    """Compare the finished runs of `runs`.

    Args:
      by: the factor; by default the group that varies.
      metric: by default the objective that the runs' configs name.
      target: a value of the metric; also measure how fast each group reached it.
      budget: how many of the settings that it tried each group may choose from.

    Raises:
      ConfigError: no finished run, or no such factor or metric.
    """
    table = runs.table.filter(pl.col("status") == "finished")
    if table.is_empty():
        raise ConfigError(
            f"none of the {runs.table.height} runs is finished: {_listed(runs.table)}"
        )
    metric, by = _metric(table, metric), _factor(table, by)
    higher = is_higher_better(table, metric)
    # Failed runs count as tried: at too high a learning rate, runs diverge.
    tried = runs.table.filter(pl.any_horizontal(pl.col(*CHOICES, "seed").is_not_null()))
    tuned = tuned_keys(tried, by)
    crossed = cell_keys(table, by, tuned)
    rows = _rows(table, by, metric, tuned, crossed)
    tuning, warnings = tune(rows, tuned, budget, higher)
    used, ranked = _ranked(rows, tuning, higher)
    varied = dict.fromkeys([by, *crossed, "seed"])
    analysis = Analysis(
        by=by,
        metric=metric,
        higher_is_better=higher,
        control=control(table, by, tuned),
        groups=ranked,
        crossed=tuple(crossed),
        comparisons=compare(used, ranked, higher, cells=False),
        cells=compare(used, ranked, higher, cells=True) if crossed else (),
        tuning=tuning,
        target=target,
        targets=reach(runs.curves, used, metric, target, higher),
        attribution=attribute(used, [f for f in varied if used[f].n_unique() > 1]),
        used=used,
        warnings=(),
    )
    return analysis._replace(warnings=(*_warnings(runs, table, analysis), *warnings))


def _ranked(
    rows: pl.DataFrame, tuning: Tuning, higher_is_better: bool
) -> tuple[pl.DataFrame, tuple[Group, ...]]:
    """The runs at their group's best setting, the best group first; and the groups."""
    chosen = tuning.sensitivity.filter("chosen").select("group", "cell", "setting")
    used = rows.join(chosen, on=["group", "cell", "setting"], maintain_order="left")
    ranked = groups(used, higher_is_better)
    best_first = pl.Enum([group.name for group in ranked])
    return used.sort(pl.col("group").cast(best_first), maintain_order=True), ranked


def is_higher_better(table: pl.DataFrame, metric: str) -> bool:
    """Whether higher values of `metric` are better, as the runs have recorded it.

    Raises:
      ConfigError: they haven't, or they contradict each other.
    """
    prefix, recorded = "provenance.directions.", {}
    for column in table.columns:
        if column.startswith(prefix):
            values = table[column].drop_nulls().unique().to_list()
            if len(values) > 1:
                raise ConfigError(
                    f"{column}: of the runs, some want it to be lower, some higher"
                )
            recorded[column.removeprefix(prefix)] = values[0] if values else None
    direction = better(metric, recorded or FIRST_EDITION)
    if not direction:
        raise ConfigError(
            f"--metric {metric}: the runs don't say whether lower or higher values are "
            "better, so nothing can be ranked by it. Metric.better of the function "
            "that metrics.<name>._target_ names would"
        )
    return direction > 0


def _metric(table: pl.DataFrame, metric: str | None) -> str:
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


def _factor(table: pl.DataFrame, by: str | None) -> str:
    if by is None:
        return default_by(table)
    names = list(dict.fromkeys([*CHOICES, *varying(table)]))
    keys = [c for c in table.columns if not is_result(c)]
    if by not in keys:
        raise ConfigError(
            f"--by {by} is not a key of these runs. It may be "
            f"{', '.join(names)}.{did_you_mean(by, [*names, *keys])}"
        )
    return by


def _rows(
    table: pl.DataFrame, by: str, metric: str, tuned: list[str], cells: list[str]
) -> pl.DataFrame:
    """One row for each run: what `tune`, `compare` and `attribute` read."""
    columns = dict.fromkeys([by, *cells, "seed"])
    return table.select(
        "run",
        pl.Series("group", texts(table[by])),
        pl.Series("cell", _labels(table, cells)),
        pl.Series("setting", _labels(table, tuned)),
        # Runs without a seed aren't known to be independent: they count as one seed.
        pl.col("seed").fill_null(0) if by != "seed" else pl.lit(0).alias("seed"),
        # A run that lacks the metric counts as diverged.
        pl.col(f"final.{metric}").fill_null(float("nan")).alias("value"),
        *(name for name in (*columns, *tuned) if name != "seed"),
    )


def _labels(table: pl.DataFrame, keys: list[str]) -> list[str]:
    columns = [[f"{key}={text}" for text in texts(table[key])] for key in keys]
    if not columns:
        return [""] * table.height
    return [", ".join(parts) for parts in zip(*columns, strict=True)]


def _warnings(runs: Runs, table: pl.DataFrame, analysis: Analysis) -> list[str]:
    left_out = runs.table.filter(pl.col("status") != "finished")
    found = [f"not read: {problem}" for problem in runs.problems]
    if left_out.height:
        found.append(f"left out, not finished: {_listed(left_out)}")
    for group in analysis.groups:
        if group.diverged:
            found.append(
                f"{group.name}: {group.diverged} of {group.runs} runs ended without a "
                f"finite {analysis.metric}. Means leave them out, and {group.name} "
                "can't be called better"
            )
    if analysis.control.unmatched:
        names = few(analysis.control.unmatched)
        found.append(f"runs without a match in some other group: {names}")
    seeds = [name for name in SEEDS if name in table and table[name].n_unique() > 1]
    if seeds:
        found.append(f"the repeats of a setting differ in {', '.join(seeds)} alone")
    used = analysis.used
    repeated = used.height - used.select("group", "cell", "seed").n_unique()
    if repeated:
        found.append(
            f"{repeated} runs repeat others (same seed and settings): their mean "
            "counts once"
        )
    of_optimizers = analysis.by == "optimizer" and len(analysis.groups) > 1
    if of_optimizers and not analysis.tuning.keys:
        found.append("nothing was tuned: each optimizer has a single setting")
    on_test = table.filter(validation="test").height if "validation" in table else 0
    if on_test:
        found.append(
            f"validation/* of {on_test} of {table.height} runs is measured on their "
            "test split (validation=test): what it chose was chosen by test data"
        )
    if "objective" in table and table["objective"].n_unique() > 1:
        found.append("the runs have different objectives")
    dirty = [c for c in table.columns if c.endswith("git.dirty")]
    dirty = [c for c in dirty if table[c].dtype == pl.Boolean]  # not all unknown
    count = table.filter(pl.any_horizontal(dirty)).height if dirty else 0
    if count:
        found.append(
            f"{count} of {table.height} runs used uncommitted code (dirty git), so "
            "their commit doesn't say what ran"
        )
    return found


def _listed(table: pl.DataFrame) -> str:
    return few(f"{run} ({status})" for run, status in table["run", "status"].rows())
