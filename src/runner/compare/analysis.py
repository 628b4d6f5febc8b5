"""Everything that is said about a set of runs, so that text and page say the same."""

from typing import NamedTuple

import polars as pl

from runner.compare.attribution import Attribution, attribute
from runner.compare.columns import cell_keys, default_by, texts, tuned_keys, varying
from runner.compare.controlled import Control, control
from runner.compare.load import CHOICES, Runs
from runner.compare.statistics import Comparison, Group, compare, groups
from runner.compare.tuning import Target, Tuning, reach, tune
from runner.errors import ConfigError, did_you_mean

_MOST_LISTED = 8


class Analysis(NamedTuple):
    """What was computed from the finished runs.

    Attributes:
      by: the column of `Runs.table` whose values are compared, such as "optimizer".
      metric: such as "eval/loss"; its last value, `final.<metric>`, is compared.
      higher_is_better: of the metric.
      control: which keys vary with `by`, and whether the comparison is controlled.
      groups: one for each value of `by`, the best mean first.
      comparisons: of each pair of groups, over everything that is crossed with `by`.
      cells: the same within each combination of what is crossed; empty if nothing is.
      tuning: what each group tried, and which settings its statistics are from.
      target: the value of the metric that `targets` are about; None without one.
      targets: steps and seconds to `target`, one for each group; empty without one.
      attribution: the part of each varying factor in the variance.
      used: the names of the runs that groups and comparisons are from: finished, and
        each group at its own best setting.
      warnings: one line each, problems of reading among them.
    """

    by: str
    metric: str
    higher_is_better: bool
    control: Control
    groups: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    cells: tuple[Comparison, ...]
    tuning: Tuning
    target: float | None
    targets: tuple[Target, ...]
    attribution: tuple[Attribution, ...]
    used: tuple[str, ...]
    warnings: tuple[str, ...]


def analyse(
    runs: Runs,
    by: str | None = None,
    metric: str | None = None,
    target: float | None = None,
    budget: int | None = None,
) -> Analysis:
    """Compare the finished ones of `runs`.

    Args:
      by: the factor; by default the group that varies.
      metric: by default the objective that the runs' configs name.
      target: also measure how fast the metric got there.
      budget: how many settings of its own each group may be tuned over.

    Raises:
      ConfigError: no finished run, or no such factor or metric.
    """
    table = runs.table.filter(pl.col("status") == "finished")
    if table.is_empty():
        raise ConfigError(
            f"none of the {runs.table.height} runs is finished: {_listed(runs.table)}"
        )
    metric, by = _metric(runs, table, metric), _factor(table, by)
    return _analysed(runs, table, by, metric, target, budget)


def _analysed(
    runs: Runs,
    table: pl.DataFrame,
    by: str,
    metric: str,
    target: float | None,
    budget: int | None,
) -> Analysis:
    higher = is_higher_better(metric)
    # What failed was tried as well: at too high a learning rate that is how runs end.
    tried = runs.table.filter(pl.any_horizontal(pl.col(*CHOICES, "seed").is_not_null()))
    tuned = tuned_keys(tried, by)
    cells = cell_keys(table, by, tuned)
    rows = _rows(table, by, metric, tuned, cells)
    tuning, warnings = tune(rows, tuned, budget, higher)
    used, ranked = _ranked(rows, tuning, higher)
    varied = [f for f in (by, *cells, "seed") if used[f].n_unique() > 1]
    reached = reach(runs.curves, used, metric, target, higher)
    analysis = Analysis(
        by=by,
        metric=metric,
        higher_is_better=higher,
        control=control(table, by, tuned),
        groups=ranked,
        comparisons=compare(used, ranked, higher, cells=False),
        cells=compare(used, ranked, higher, cells=True) if cells else (),
        tuning=tuning,
        target=target,
        targets=reached,
        attribution=attribute(used, list(dict.fromkeys(varied))),
        used=tuple(used["run"]),
        warnings=(),
    )
    warnings = (*_warnings(runs, table, used, analysis), *warnings)
    return analysis._replace(warnings=warnings)


def _ranked(
    rows: pl.DataFrame, tuning: Tuning, higher_is_better: bool
) -> tuple[pl.DataFrame, tuple[Group, ...]]:
    """Each group's runs at its best setting, the best group first; and the groups."""
    chosen = tuning.sensitivity.filter("chosen").select("group", "cell", "setting")
    used = rows.join(chosen, on=["group", "cell", "setting"], maintain_order="left")
    ranked = groups(used, higher_is_better)
    order = {group.name: place for place, group in enumerate(ranked)}
    place = pl.col("group").replace_strict(order, return_dtype=pl.Int64)
    return used.sort(place, maintain_order=True), ranked


def is_higher_better(metric: str) -> bool:
    """By its name: accuracies, scores and rewards rise; anything else falls."""
    name = metric.rsplit("/")[-1]
    return any(w in name for w in ("accuracy", "score", "reward", "return", "auc"))


def _metric(runs: Runs, table: pl.DataFrame, metric: str | None) -> str:
    names = [c.removeprefix("final.") for c in table.columns if c.startswith("final.")]
    if metric is None:
        objectives = table["objective"].drop_nulls() if "objective" in table else []
        counts = {name: list(objectives).count(name) for name in objectives}
        metric = str(max(counts, key=lambda name: counts[name], default="eval/loss"))
    if metric not in names:
        raise ConfigError(
            f"--metric {metric} is not a metric of these runs, which have "
            f"{', '.join(names) or 'none'}.{did_you_mean(metric, names)}"
        )
    return metric


def _factor(table: pl.DataFrame, by: str | None) -> str:
    if by is None:
        return default_by(table)
    names = [*CHOICES, *varying(table)]
    if by not in table or by not in {*names, *_config_keys(table)}:
        told = ", ".join(dict.fromkeys(names))
        raise ConfigError(
            f"--by {by} is not a key of these runs. It may be {told}."
            + did_you_mean(by, [*names, *_config_keys(table)])
        )
    return by


def _config_keys(table: pl.DataFrame) -> list[str]:
    results = ("run", "folder", "status", "error", "wall_seconds", "compile_seconds")
    sections = ("final", "best", "best_step")
    return [
        c for c in table.columns if c not in results and c.split(".")[0] not in sections
    ]


def _rows(
    table: pl.DataFrame, by: str, metric: str, tuned: list[str], cells: list[str]
) -> pl.DataFrame:
    """A row a run: the columns that `tune`, `compare` and `attribute` read."""
    labels = {
        name: _labels(table, keys)
        for name, keys in (("cell", cells), ("setting", tuned))
    }
    columns = dict.fromkeys([by, *cells, "seed"])
    return table.select(
        "run",
        pl.Series("group", texts(table[by])),
        pl.Series("cell", labels["cell"]),
        pl.Series("setting", labels["setting"]),
        # Without seeds nothing is known to be independent: it counts as one.
        pl.col("seed").fill_null(0) if by != "seed" else pl.lit(0).alias("seed"),
        # Not finite, so that a run that lacks the metric counts as diverged.
        pl.col(f"final.{metric}").fill_null(float("nan")).alias("value"),
        *(name for name in (*columns, *tuned) if name != "seed"),
    )


def _labels(table: pl.DataFrame, keys: list[str]) -> list[str]:
    columns = [[f"{key}={text}" for text in texts(table[key])] for key in keys]
    return [", ".join(parts) for parts in zip(*columns, strict=True)] or [""] * len(
        table
    )


def _warnings(
    runs: Runs, table: pl.DataFrame, used: pl.DataFrame, analysis: Analysis
) -> list[str]:
    left_out = runs.table.filter(pl.col("status") != "finished")
    found = [f"not read: {problem}" for problem in runs.problems]
    if left_out.height:
        found.append(f"left out, not finished: {_listed(left_out)}")
    for group in analysis.groups:
        if group.diverged:
            found.append(
                f"{group.name}: the metric of {group.diverged} of {group.runs} runs is "
                "not finite; means leave them out, and it can't be called better"
            )
    if analysis.control.unmatched:
        names = _few(analysis.control.unmatched)
        found.append(f"without a partner in some other group: {names}")
    repeated = used.height - used.select("group", "cell", "seed").n_unique()
    if repeated:
        found.append(
            f"{repeated} runs repeat others (all else equal); a mean counts once"
        )
    of_optimizers = analysis.by == "optimizer" and len(analysis.groups) > 1
    if of_optimizers and not analysis.tuning.keys:
        found.append("nothing was tuned: the optimizers have one setting each")
    if "objective" in table and table["objective"].n_unique() > 1:
        found.append("the runs have different objectives")
    dirty = [c for c in table.columns if c.endswith("git.dirty")]
    dirty = [c for c in dirty if table[c].dtype == pl.Boolean]  # not all unknown
    count = table.filter(pl.any_horizontal(dirty)).height if dirty else 0
    if count:
        found.append(
            f"{count} of {table.height} runs are of uncommitted code (dirty git), so "
            "their commit doesn't say what ran"
        )
    return found


def _listed(table: pl.DataFrame) -> str:
    return _few(f"{run} ({status})" for run, status in table["run", "status"].rows())


def _few(names) -> str:
    names = list(names)
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
