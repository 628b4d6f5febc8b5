"""What the terminal shows of an analysis."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from runner.compare.analysis import Analysis
from runner.compare.headline import headline
from runner.compare.statistics import Comparison
from runner.record.console import print_table

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
        (f"{analysis.metric} by {analysis.by}", *_groups(analysis)),
        ("paired differences", *_comparisons(analysis.comparisons)),
        ("the same in each cell", *_comparisons(analysis.cells)),
        ("tuning", *_sensitivity(analysis)),
        (
            f"time to {analysis.metric} {analysis.target:g}"
            if analysis.target is not None
            else "",
            *_targets(analysis),
        ),
        ("what explains the variance", *_attribution(analysis)),
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


def _groups(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            group.name,
            group.setting or "differs by cell" * bool(analysis.tuning.keys),
            f"{group.runs}" + (f" ({group.diverged} diverged)" * (group.diverged > 0)),
            str(len(group.values)),
            f"{group.mean:.4g}",
            _brackets(group.low, group.high),
        ]
        for group in analysis.groups
    ]
    return [analysis.by, "best setting", "runs", "seeds", "mean", "interval"], rows


def _brackets(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]" if low == low else "-"


def _comparisons(found: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            *([c.cell] if c.cell else []),
            f"{c.a} - {c.b}",
            f"{c.difference:.4g}" if c.differences else "-",
            _brackets(c.low, c.high),
            str(len(c.differences)),
            f"{c.improvement:.0%}" if c.differences else "-",
            f"{c.p_value:.2g}" if c.p_value == c.p_value else "-",
            c.verdict + _needed(c.more_seeds),
        ]
        for c in found
    ]
    cell = ["cell"] if found and found[0].cell else []
    header = ["pair", "difference", "interval", "seeds", "first better", "p", "verdict"]
    return [*cell, *header], rows


def _needed(more: int | None) -> str:
    if more is None:
        return ""
    return f" (needs {'more than 1000' if more > 1000 else f'about {more}'} more seeds)"


def _sensitivity(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    header = [analysis.by, "cell", "setting", "runs", "diverged", "mean", "lowest"]
    if not analysis.tuning.keys:
        return header, []
    rows = [
        [
            row["group"],
            row["cell"],
            row["setting"],
            str(row["runs"]),
            str(row["diverged"]),
            *(
                "-" if row[k] is None else f"{row[k]:.4g}"
                for k in ("mean", "low", "high")
            ),
            "chosen" if row["chosen"] else "",
        ]
        for row in analysis.tuning.sensitivity.iter_rows(named=True)
    ]
    return [*header, "highest", ""], rows


def _targets(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            target.group,
            f"{target.reached} of {target.runs}",
            "never" if target.steps is None else f"{target.steps:g}",
            "-" if target.seconds is None else f"{target.seconds:.3g}",
        ]
        for target in analysis.targets
    ]
    return [analysis.by, "reached by", "median steps", "median seconds"], rows


def _attribution(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            part.factor,
            "not balanced" if part.share is None else f"{part.share:.2%}",
            "-" if part.relative != part.relative else f"{part.largest_difference:.3g}",
            "agree within 1e-4" if part.agrees else "",
        ]
        for part in analysis.attribution
    ]
    return ["factor", "share", "largest difference, all else equal", ""], rows
