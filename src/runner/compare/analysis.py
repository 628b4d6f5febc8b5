"""All findings about a set of runs, so that the terminal and the page agree."""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import polars as pl
import polars.selectors as cs

from runner.compare.asked import factor_of, is_higher_better, metric_of
from runner.compare.attribution import Attribution, attribute
from runner.compare.columns import INITIAL, cell_keys, texts, tuned_keys
from runner.compare.controlled import Control, control
from runner.compare.costs import Target, at_equal, axes, reach, with_costs
from runner.compare.load import CHOICES, SEEDS, Runs
from runner.compare.reproduced import first_steps, once
from runner.compare.statistics import Comparison, Group, compare, groups
from runner.compare.tuning import Tuning, at_budget, tune, warnings_of
from runner.errors import ConfigError, few
from runner.settings import FACT

_REPEATED = f"{FACT}in_training_too."

# How a run ends that counts as the worst. Others, such as "running", say nothing yet.
FAILED = ("failed", "refused")


class Verdicts(NamedTuple):
    """The groups by the values that their runs have at the end, or at an equal cost.

    Attributes:
      groups: one for each value of `by`, the best mean first.
      in_cells: the same in each cell; empty if nothing is crossed.
      comparisons: of each pair of groups, over all cells.
      cells: the same within each cell; empty if nothing is crossed.
      tuning: what each group tried, and which setting it is compared at.
      used: one row for each run in the statistics (at its group's best setting), the
        best group first: `run`, `group`, `cell`, `setting` (text), `seed`, and `value`,
        the metric; `failed` if it diverged, was refused or failed, and has the worst.
      rows: the same at all settings.
    """

    groups: tuple[Group, ...]
    in_cells: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    cells: tuple[Comparison, ...]
    tuning: Tuning
    used: pl.DataFrame
    rows: pl.DataFrame


class Analysis(NamedTuple):
    """What was computed from the runs that ended.

    Attributes:
      by: the column of `Runs.table` whose values are compared, such as "optimizer".
      metric: such as "validation/loss"; its last value, `final.<metric>`, is compared.
      higher_is_better: whether a higher value of the metric is better.
      control: which keys vary with `by`, and whether the comparison is controlled.
      crossed: the columns that vary within the groups, other than the seed and the
        tuned keys. A cell is a combination of their values.
      final: by the final values.
      at_cost: {unit: (cost, by the values at that cost)}, where runs cost differently.
      target: the value of the metric that `targets` are about; None without one.
      targets: what it cost to reach `target`, one for each group; empty without one.
      attribution: the share of the variance that each varying factor explains.
      curves: `Runs.curves` with what each row had cost.
      warnings: one line each; what could not be read comes first.
    """

    by: str
    metric: str
    higher_is_better: bool
    control: Control
    crossed: tuple[str, ...]
    final: Verdicts
    at_cost: dict[str, tuple[float, Verdicts]]
    target: float | None
    targets: tuple[Target, ...]
    attribution: tuple[Attribution, ...]
    curves: pl.DataFrame
    warnings: tuple[str, ...]


def analyse(
    runs: Runs,
    by: str | None = None,
    metric: str | None = None,
    target: float | None = None,
    budget: int | None = None,
) -> Analysis:
    """Compare the runs of `runs` that have ended.

    Args:
      by: the factor; by default the group that varies.
      metric: by default the objective that the runs' configs name.
      target: a value of the metric; also measure how fast each group reached it.
      budget: each group counts with its best of at most so many settings.

    Raises:
      ConfigError: no finished run, no such factor or metric, or a budget below 1.
    """
    if budget is not None and budget < 1:
        raise ConfigError(f"--budget {budget} must be at least 1")
    if (runs.table["status"] != "finished").all():
        count, names = runs.table.height, _listed(runs.table)
        raise ConfigError(f"none of the {count} runs is finished: {names}")
    # A run that failed before it was configured says nothing about any group.
    known = pl.any_horizontal(pl.col(*CHOICES, "seed").is_not_null())
    ended = pl.col("status") == "finished"
    table = runs.table.filter(ended | (pl.col("status").is_in(FAILED) & known))
    metric, by = metric_of(table, metric), factor_of(table, by)
    higher = is_higher_better(table, metric)
    tuned = tuned_keys(table, by)
    crossed = cell_keys(table, by, tuned)
    all_rows = _rows(table, by, metric, tuned, crossed, higher)
    rows, repeats = once(all_rows, table, higher)
    first = [*first_steps(table, runs.curves, by)]
    apart = {"NOT REPRODUCED": repeats, "DIFFERENT FROM STEP 1": first}
    curves = with_costs(runs)
    start = curves.select("run", first=metric if metric in curves else pl.lit(None))
    start = start.drop_nulls().unique("run", keep="first", maintain_order=True)
    judge = partial(_judged, start, tuned, budget, higher, bool(crossed))
    final = judge(rows)
    at_cost = {
        unit: (found[0], judge(found[1]))
        for axis, unit in axes(table).items()
        if (found := at_equal(curves, rows, metric, axis))
    }
    used, varied = final.used, dict.fromkeys([by, *crossed, "seed"])
    analysis = Analysis(
        by=by,
        metric=metric,
        higher_is_better=higher,
        control=control(table, by, tuned, apart),
        crossed=tuple(crossed),
        final=final,
        at_cost=at_cost,
        target=target,
        targets=reach(curves, used, metric, target, higher),
        attribution=attribute(used, [f for f in varied if used[f].n_unique() > 1]),
        curves=curves,
        warnings=(),
    )
    return analysis._replace(warnings=tuple(_warnings(runs, table, analysis)))


def _judged(
    start: pl.DataFrame,
    tuned: list[str],
    budget: int | None,
    higher: bool,
    crossed: bool,
    rows: pl.DataFrame,
) -> Verdicts:
    """What `value` of `rows` says.

    Args:
      start: the first logged value of each run.
    """
    tuning = tune(rows, tuned, budget, higher)
    chosen, on = tuning.sensitivity.filter("chosen"), ["group", "cell", "setting"]
    used = rows.join(chosen, on=on, how="semi", maintain_order="left")
    known = [*used["value"], *used.join(start, on="run")["first"]]
    known = [value for value in known if value is not None and math.isfinite(value)]
    worst = (min if higher else max)(known, default=math.nan)
    failed = pl.col("value").is_finite().not_()
    value = pl.when(failed).then(worst).otherwise("value")
    rows, used = (t.with_columns(value=value, failed=failed) for t in (rows, used))
    seeds = at_budget(rows, tuning)
    ranked = groups(seeds, used, higher)
    best_first = pl.Enum([group.name for group in ranked])
    return Verdicts(
        groups=ranked,
        in_cells=groups(seeds, used, higher, cells=True) if crossed else (),
        comparisons=compare(seeds, ranked, higher, cells=False),
        cells=compare(seeds, ranked, higher, cells=True) if crossed else (),
        tuning=tuning,
        used=used.sort(pl.col("group").cast(best_first), maintain_order=True),
        rows=rows,
    )


def _rows(
    table: pl.DataFrame,
    by: str,
    metric: str,
    tuned: list[str],
    cells: list[str],
    higher: bool,
) -> pl.DataFrame:
    """One row for each run: what `tune`, `compare` and `attribute` read."""
    final = pl.col(f"final.{metric}")
    # Some that failed have a value from before; one that lacks the metric has diverged.
    ended = (pl.col("status") == "finished") & final.is_finite().fill_null(False)
    worst = -math.inf if higher else math.inf
    return table.select(
        "run",
        pl.Series("group", texts(table[by])),
        pl.Series("cell", _labels(table, cells)),
        pl.Series("setting", _labels(table, tuned)),
        # Runs without a seed aren't known to be independent: they count as one seed.
        pl.col("seed").fill_null(0) if by != "seed" else pl.lit(0).alias("seed"),
        pl.when(ended).then(final).otherwise(worst).alias("value"),
        *dict.fromkeys(name for name in (by, *cells, *tuned) if name != "seed"),
    )


def _labels(table: pl.DataFrame, keys: list[str]) -> list[str]:
    columns = [[f"{key}={text}" for text in texts(table[key])] for key in keys]
    return [", ".join(r) for r in zip(*columns, strict=True)] or [""] * table.height


def _warnings(runs: Runs, table: pl.DataFrame, analysis: Analysis) -> Iterator[str]:
    left_out = runs.table.join(table, on="run", how="anti", maintain_order="left")
    yield from (f"not read: {problem}" for problem in runs.problems)
    if left_out.height:
        yield f"left out, not finished: {_listed(left_out)}"
    for group in analysis.final.groups:
        if group.failed:
            bad = analysis.final.used.filter("failed", group=group.name).select("run")
            names = _listed(table.join(bad, on="run", maintain_order="left"))
            yield (
                f"{group.name}: {group.failed} of {group.runs} runs ended without a "
                f"finite {analysis.metric} ({names}). Each counts as the worst value "
                "with which any run began or ended"
            )
    if analysis.control.unmatched:
        names = few(analysis.control.unmatched)
        yield f"runs without a match in some other group: {names}"
    seeds = [name for name in SEEDS if name in table and table[name].n_unique() > 1]
    if seeds:
        yield f"the repeats of a setting differ in {', '.join(seeds)} alone"
    elif INITIAL in table:
        known = table.drop_nulls(INITIAL)
        if (known.group_by(INITIAL).agg(pl.col("seed").n_unique())["seed"] > 1).any():
            yield "other seeds start from the same initial values"
    if repeated := table.height - analysis.final.rows.height:
        yield f"{repeated} runs repeat others (same seed and settings): they count once"
    of_optimizers = analysis.by == "optimizer" and len(analysis.final.groups) > 1
    if of_optimizers and not analysis.final.tuning.keys:
        yield "nothing was tuned: each optimizer has a single setting"
    for still in table["unchanged"].drop_nulls().unique().sort():
        runs_of = few(table.filter(unchanged=still)["run"])
        yield f"training never changed {still} of {runs_of}"
    for column in table.select(cs.starts_with(_REPEATED) & cs.integer()):
        if most := column.max():
            split = column.name.removeprefix(_REPEATED)
            yield f"{most} examples of the split {split} are in train too"
    on_test = table.filter(validation="test").height if "validation" in table else 0
    if on_test:
        yield (
            f"validation/* of {on_test} of {table.height} runs is measured on their "
            "test split (validation=test): what it chose was chosen by test data"
        )
    if "objective" in table and table["objective"].n_unique() > 1:
        yield "the runs have different objectives"
    dirty = pl.any_horizontal(cs.ends_with("git.dirty") & cs.boolean())  # or unknown
    if count := table.filter(dirty).height:
        yield (
            f"{count} of {table.height} runs used uncommitted code (dirty git), so "
            "their commit doesn't say what ran"
        )
    yield from warnings_of(analysis.final.tuning)


def _listed(table: pl.DataFrame) -> str:
    return few(f"{run} ({status})" for run, status in table["run", "status"].rows())
