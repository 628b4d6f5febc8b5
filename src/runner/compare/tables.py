"""The tables of a comparison, for the terminal and for the page."""

import math
from collections.abc import Iterable, Iterator
from itertools import compress
from typing import Any, NamedTuple

from runner.compare.analysis import Analysis
from runner.compare.columns import differing, texts
from runner.compare.inference import SHOWN
from runner.compare.load import Runs
from runner.compare.statistics import Comparison, Group
from runner.compare.tuning import edges_of
from runner.settings import FACT

DIFFERS = "What differs"
_WIDEST = 32
_FEW_SEEDS = 5  # with fewer, the values say more than an interval


class Mark(NamedTuple):
    """A text that the page colours: `css` is "better", "worse" or "note"."""

    text: str
    css: str

    def __str__(self) -> str:
        return self.text


class Table(NamedTuple):
    """A table; the first column names the row.

    Attributes:
      section: the heading that it belongs to, which may have several.
      note: a sentence or two that explain it.
      rows: a value for each of `head`; None and NaN for none.
      folded: whether the page shows it on request only, and the terminal not at all.
    """

    section: str
    note: str
    head: list[str]
    rows: list[list[Any]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has only numbers."""
        columns = zip(*self.rows, strict=True)
        return [all(isinstance(v, int | float | None) for v in c) for c in columns]


def shown(value: Any) -> str:
    """`value` in a table: numbers with four digits, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(runs: Runs, analysis: Analysis) -> Iterator[Table]:
    """All that have rows, in reading order, without columns that have no values."""
    for table in _tables(runs, analysis):
        columns = zip(*table.rows, strict=True)
        filled = [any(v not in (None, "") for v in column) for column in columns]
        if table.rows:
            head, *rows = [[*compress(r, filled)] for r in (table.head, *table.rows)]
            yield table._replace(head=head, rows=rows)


def _tables(runs: Runs, analysis: Analysis) -> Iterator[Table]:
    found, by = analysis.final, analysis.by
    if runs.table.height == 2:
        values = [
            [name.removeprefix(FACT), *map(_short, texts(runs.table[name]))]
            for name in differing(runs.table)
        ]
        note = "Of what was configured and recorded; null is what one hasn't."
        yield Table(DIFFERS, note, ["key", *runs.table["run"]], values)
    direction = "higher" if analysis.higher_is_better else "lower"
    note = (
        f"Final {analysis.metric}; {direction} is better. Mean over seeds, with a 95 % "
        "interval by Student's t. Runs that diverged, were refused or failed count as "
        "the worst, and there is no interval then."
    )
    ranked = found.in_cells or found.groups
    head = ["cell", by, "setting", "mean", "95 %", "seeds", "runs", "failed", "values"]
    yield Table("Results", note, head, [_group(analysis, g) for g in ranked])
    note = (
        "First minus second, seed by seed. Wins: the share of seeds for which the "
        "first was better. All pairs: the share of all pairs of runs, whatever their "
        "seeds. p is of a paired t test, corrected for the number of pairs (Holm)."
        + _more_seeds(found.comparisons)
    )
    yield Table("Pair by pair", note, _PAIR, [_pair(c) for c in found.comparisons])
    within = f"Within each value of {', '.join(analysis.crossed)}."
    within += _more_seeds(found.cells)
    yield Table("Pair by pair", within, _PAIR, [_pair(c) for c in found.cells], True)
    for unit, (cost, at) in analysis.at_cost.items():
        note = f"{analysis.metric} when {cost:.4g} {unit} were spent on each run."
        note += _more_seeds(at.comparisons)
        rows = [_pair(c) for c in at.comparisons]
        yield Table(f"At equal {unit}", note, _PAIR, rows, unit != "steps")
    yield from _tuning(analysis)
    note = f"Medians until {analysis.metric} reached {analysis.target or 0:g}."
    head = [by, "runs", "reached it", "steps", "seconds", "FLOPs"]
    rows = [["never" if v == math.inf else v for v in t] for t in analysis.targets]
    yield Table("Time to target", note, head, rows)
    note = "Shares are of the variance of final values, where the runs are balanced."
    head = ["factor", "share", "largest difference", "relative", ""]
    rows = [
        [a.factor, None if a.share is None else f"{a.share:.1%}", a.largest_difference]
        + [a.relative, "agree within 1e-4" if a.agrees else None]
        for a in analysis.attribution
    ]
    yield Table("What explains the differences", note, head, rows)
    rows = [
        [k.name, Mark(k.role, "worse" if k.role == "confounder" else ""), k.values]
        for k in analysis.control.keys
    ]
    yield Table("What varies", "", ["key", "role", "values"], rows, True)
    yield _runs(runs, analysis)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 4]} ..."


def _group(analysis: Analysis, group: Group) -> list[Any]:
    tuning = analysis.final.tuning
    setting = group.setting or ("differs by cell" if tuning.keys else None)
    if tuning.budget and tuning.matched:
        setting = f"best of {tuning.budget}"
    few = len(group.values) < _FEW_SEEDS
    values = ", ".join(f"{v:.4g}" for v in group.values.values()) if few else None
    failed = Mark(str(group.failed), "worse") if group.failed else None
    ends = brackets(group.low, group.high) or None
    counts = [len(group.values), group.runs, failed]
    return [group.cell, group.name, setting, group.mean, ends, *counts, values]


_PAIR = ["cell", "pair", "verdict", "difference", "95 %", "wins", "all pairs", "p"]
_PAIR += ["seeds", "more seeds"]


def _more_seeds(comparisons: Iterable[Comparison]) -> str:
    """What the column of that name says, if the table of these has it."""
    told = any(c.more_seeds is not None for c in comparisons)
    return f" More seeds: how many more would show {SHOWN}." if told else ""


def _pair(c: Comparison) -> list[Any]:
    ranked = c.verdict in ("better", "worse")
    text = f"{c.a} is {c.verdict}" if ranked else c.verdict
    verdict = Mark(text, c.verdict if ranked else "note")
    shares = [None if math.isnan(s) else f"{s:.0%}" for s in (c.wins, c.probability)]
    p = None if math.isnan(c.p_value) else f"{c.p_value:.2g}"
    numbers = [c.difference, brackets(c.low, c.high) or None, *shares, p]
    seeds = len(c.differences), c.more_seeds
    return [c.cell, f"{c.a} - {c.b}", verdict, *numbers, *seeds]


def brackets(low: float, high: float) -> str:
    """An interval; nothing without one."""
    return "" if math.isnan(low) else f"[{low:.4g}, {high:.4g}]"


def _tuning(analysis: Analysis) -> Iterator[Table]:
    tuning = analysis.final.tuning
    if not tuning.keys:
        return
    tried = ", ".join(f"{group}: {count}" for group, count in tuning.tried.items())
    note = (
        f"Best settings of {', '.join(tuning.keys)}. Settings tried: {tried}. Chosen "
        "by the same seeds: new seeds are likely to do a little worse there."
    )
    columns = {"group": analysis.by, "cell": "cell", "setting": "setting"}
    columns |= {"mean": "mean", "low": "lowest", "high": "highest", "runs": "runs"}
    head, best, rows = [*columns.values(), "failed"], [], []
    for r in tuning.sensitivity.iter_rows(named=True):
        row = [*(r[k] for k in columns), r["failed"] or None]
        rows.append([*row, "chosen" if r["chosen"] else None])
        if r["chosen"]:
            ends = ", ".join(edges_of(tuning, r))
            best.append([*row, Mark(f"extend {ends}", "worse") if ends else None])
    yield Table("Tuning", note, [*head, "edge"], best)
    yield Table("Tuning", f"All {len(rows)} settings.", [*head, ""], rows, True)


def _runs(runs: Runs, analysis: Analysis) -> Table:
    found, used = runs.table, {*analysis.final.used["run"]}
    keys = [analysis.by, *analysis.crossed, *analysis.final.tuning.keys]
    columns: dict[str, Iterable[Any]] = {
        "run": found["run"],
        **{key: texts(found[key]) for key in keys},
        "seed": found["seed"],
        f"final {analysis.metric}": found[f"final.{analysis.metric}"],
        "status": found["status"],
        "compared": ["yes" if run in used else "no" for run in found["run"]],
        "seconds": found["wall_seconds"],
        "folder": found["folder"],
    }
    rows = [[*row] for row in zip(*columns.values(), strict=True)]
    return Table("Runs", "", [*columns], rows, True)
