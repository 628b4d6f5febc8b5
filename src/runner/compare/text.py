"""What the terminal shows of an analysis."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from runner.compare.analysis import Analysis
from runner.compare.headline import headline
from runner.compare.statistics import Comparison
from runner.record.console import print_table

_Table = tuple[str, list[str], list[list[str]]]  # title, header, rows

_MOST_ROWS = 40  # the rest is in the page

METHOD = (
    "Means over seeds, after means over cells. Brackets: 95 % bootstrap intervals (BCa "
    "from 10 seeds, percentiles with fewer). Differences are within a seed. Groups are "
    "ranked only if this interval excludes 0 and so does a paired t test, with Holm's "
    "correction: among many pairs, one would look different by chance."
)


def show(analysis: Analysis, console: Console) -> None:
    """Print the finding, whether the comparison is controlled, and all numbers."""
    for sentence in analysis.control.mislabeled:
        _line(console, "MISLABELED", sentence, "bold red")
    _line(console, "", headline(analysis), "bold")
    _control(analysis, console)
    for warning in analysis.warnings:
        _line(console, "warning", warning, "yellow")
    for title, header, rows in (
        _groups(analysis),
        _comparisons("paired differences", analysis.comparisons),
        _comparisons("the same in each cell", analysis.cells),
        _sensitivity(analysis),
        _targets(analysis),
        _attribution(analysis),
    ):
        print_table(header, rows, console, title=title, most=_MOST_ROWS)
    _line(console, "", METHOD, "dim")


def _line(console: Console, label: str, text: str, style: str) -> None:
    start = Text(f"{label}: " if label else "", style)
    line = start + Text(text, "" if label else style)
    console.print(line, soft_wrap=not console.is_terminal)


def _control(analysis: Analysis, console: Console) -> None:
    control, by = analysis.control, analysis.by
    for key in control.confounders:
        text = f"{key.name} differs with {by} ({key.by_group})"
        _line(console, "CONFOUNDED", text, "bold red")
    if control.controlled:
        text = f"of what was recorded, only {by} and what follows from it differ"
        _line(console, "CONTROLLED", text, "bold green")
    if control.unknown:
        _line(console, "unknown, so not compared", "; ".join(control.unknown), "yellow")
    for role, label in (
        ("crossed", "also vary, compared at equal values"),
        ("tuned", "tuned"),
        ("consequence", f"follows from {by}"),
    ):
        keys = [f"{k.name} ({k.values})" for k in control.keys if k.role == role]
        if keys:
            _line(console, label, "; ".join(keys), "dim")


def _groups(analysis: Analysis) -> _Table:
    header = [analysis.by, "best setting", "runs", "seeds", "mean", "interval"]
    rows = [
        [
            group.name,
            group.setting or "differs by cell" * bool(analysis.tuning.keys),
            f"{group.runs}" + f" ({group.diverged} diverged)" * (group.diverged > 0),
            str(len(group.values)),
            f"{group.mean:.4g}",
            _brackets(group.low, group.high),
        ]
        for group in analysis.groups
    ]
    return f"{analysis.metric} by {analysis.by}", header, rows


def _comparisons(title: str, found: Sequence[Comparison]) -> _Table:
    header = ["pair", "difference", "interval", "seeds", "first better", "p", "verdict"]
    rows = [
        [
            f"{c.a} - {c.b}",
            _number(c.difference),
            _brackets(c.low, c.high),
            str(len(c.differences)),
            _number(c.improvement, ".0%"),
            _number(c.p_value, ".2g"),
            c.verdict + (f" (needs {c.needed} more seeds)" if c.needed else ""),
        ]
        for c in found
    ]
    if found and found[0].cell:
        header = ["cell", *header]
        rows = [[c.cell, *row] for c, row in zip(found, rows, strict=True)]
    return title, header, rows


def _sensitivity(analysis: Analysis) -> _Table:
    header = [analysis.by, "cell", "setting", "runs", "diverged", "mean", "lowest"]
    rows = [
        [
            *(str(row[k]) for k in ("group", "cell", "setting", "runs", "diverged")),
            *(_number(row[k]) for k in ("mean", "low", "high")),
            "chosen" if row["chosen"] else "",
        ]
        for row in analysis.tuning.sensitivity.iter_rows(named=True)
    ]
    rows = rows if analysis.tuning.keys else []
    return "tuning", [*header, "highest", ""], rows


def _targets(analysis: Analysis) -> _Table:
    header = [analysis.by, "reached by", "median steps", "median seconds"]
    rows = [
        [
            target.group,
            f"{target.reached} of {target.runs}",
            "never" if target.steps is None else f"{target.steps:g}",
            _number(target.seconds, ".3g"),
        ]
        for target in analysis.targets
    ]
    return f"time to {analysis.metric} {analysis.target or 0:g}", header, rows


def _attribution(analysis: Analysis) -> _Table:
    header = ["factor", "share", "largest difference, all else equal", ""]
    rows = [
        [
            part.factor,
            "not balanced" if part.share is None else f"{part.share:.2%}",
            _number(part.largest_difference, ".3g"),
            "agree within 1e-4" if part.agrees else "",
        ]
        for part in analysis.attribution
    ]
    return "what explains the variance", header, rows


def _number(value: float | None, digits: str = ".4g") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{digits}}"


def _brackets(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"[{low:.4g}, {high:.4g}]"
