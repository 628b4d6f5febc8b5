"""What the terminal shows of an analysis."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from runner.compare.analysis import Analysis
from runner.compare.headline import headline
from runner.compare.statistics import Comparison
from runner.record.console import print_table
from runner.record.untrusted import printable

_Columns = list[tuple[str, list[str]]]  # each with its header

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
    for title, columns in (
        (f"{analysis.metric} by {analysis.by}", _groups(analysis)),
        ("paired differences", _comparisons(analysis.comparisons)),
        ("the same in each cell", _comparisons(analysis.cells)),
        ("tuning", _sensitivity(analysis)),
        (f"time to {analysis.metric} {analysis.target or 0:g}", _targets(analysis)),
        ("what explains the variance", _attribution(analysis)),
    ):
        header, values = zip(*columns, strict=True)
        rows = [*zip(*values, strict=True)]
        print_table(header, rows, console, title=title, most=_MOST_ROWS)
    _line(console, "", METHOD, "dim")


def _line(console: Console, label: str, text: str, style: str) -> None:
    start = Text(f"{label}: " if label else "", style)
    line = start + Text(printable(text), "" if label else style)
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


def _groups(analysis: Analysis) -> _Columns:
    groups = analysis.groups
    differs = "differs by cell" if analysis.tuning.keys else ""
    diverged = [f" ({g.diverged} diverged)" if g.diverged else "" for g in groups]
    return [
        (analysis.by, [g.name for g in groups]),
        ("best setting", [g.setting or differs for g in groups]),
        ("runs", [f"{g.runs}{d}" for g, d in zip(groups, diverged, strict=True)]),
        ("seeds", [str(len(g.values)) for g in groups]),
        ("mean", [f"{g.mean:.4g}" for g in groups]),
        ("interval", [_brackets(g.low, g.high) for g in groups]),
    ]


def _comparisons(found: Sequence[Comparison]) -> _Columns:
    needed = [f" (needs {c.needed} more seeds)" if c.needed else "" for c in found]
    columns = [
        ("cell", [c.cell for c in found]),
        ("pair", [f"{c.a} - {c.b}" for c in found]),
        ("difference", [_number(c.difference) for c in found]),
        ("interval", [_brackets(c.low, c.high) for c in found]),
        ("seeds", [str(len(c.differences)) for c in found]),
        ("first better", [_number(c.improvement, ".0%") for c in found]),
        ("p", [_number(c.p_value, ".2g") for c in found]),
        ("verdict", [c.verdict + n for c, n in zip(found, needed, strict=True)]),
    ]
    return columns if any(c.cell for c in found) else columns[1:]


def _sensitivity(analysis: Analysis) -> _Columns:
    tuning = analysis.tuning
    tried = [*tuning.sensitivity.iter_rows(named=True)] if tuning.keys else []
    return [
        (analysis.by, [t["group"] for t in tried]),
        ("cell", [t["cell"] for t in tried]),
        ("setting", [t["setting"] for t in tried]),
        ("runs", [str(t["runs"]) for t in tried]),
        ("diverged", [str(t["diverged"]) for t in tried]),
        ("mean", [_number(t["mean"]) for t in tried]),
        ("lowest", [_number(t["low"]) for t in tried]),
        ("highest", [_number(t["high"]) for t in tried]),
        ("", ["chosen" if t["chosen"] else "" for t in tried]),
    ]


def _targets(analysis: Analysis) -> _Columns:
    targets = analysis.targets
    return [
        (analysis.by, [t.group for t in targets]),
        ("reached by", [f"{t.reached} of {t.runs}" for t in targets]),
        ("median steps", [_number(t.steps, "g", "never") for t in targets]),
        ("median seconds", [_number(t.seconds, ".3g") for t in targets]),
    ]


def _attribution(analysis: Analysis) -> _Columns:
    parts = analysis.attribution
    largest = "largest difference, all else equal"
    return [
        ("factor", [p.factor for p in parts]),
        ("share", [_number(p.share, ".2%", "not balanced") for p in parts]),
        (largest, [_number(p.largest_difference, ".3g") for p in parts]),
        ("", ["agree within 1e-4" if p.agrees else "" for p in parts]),
    ]


def _number(value: float | None, digits: str = ".4g", none: str = "-") -> str:
    return none if value is None or math.isnan(value) else f"{value:{digits}}"


def _brackets(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"[{low:.4g}, {high:.4g}]"
