"""What the terminal shows of an analysis."""

from rich.console import Console
from rich.text import Text

from runner.compare.analysis import Analysis
from runner.compare.headline import at_equal_cost, headline
from runner.compare.load import Runs
from runner.compare.tables import DIFFERS, Table, shown, tables
from runner.errors import few
from runner.record.console import print_table
from runner.record.untrusted import printable

_MOST_ROWS = 20  # the rest is in the page
_MOST_KEYS = 3


def show(runs: Runs, analysis: Analysis, console: Console, all_keys: bool) -> None:
    """Print the finding, whether the comparison is controlled, and all numbers."""
    found = [table for table in tables(runs, analysis) if not table.folded]
    if found[0].section == DIFFERS:  # of two runs, that is the first question
        _table(found.pop(0), console)
    control = analysis.control
    for label, sentences in control.apart.items():
        for sentence in sentences:
            _line(console, label, sentence, "bold red")
    _line(console, "", headline(analysis), "bold")
    for sentence in at_equal_cost(analysis):
        _line(console, "", sentence, "")
    _control(analysis, console, all_keys)
    for warning in analysis.warnings:
        _line(console, "warning", warning, "yellow")
    for table in found:
        _table(table, console)


def _table(table: Table, console: Console) -> None:
    title = f"{table.section}. {table.note}"
    rows = [[shown(value) for value in row] for row in table.rows]
    print_table(table.head, rows, console, title=title, most=_MOST_ROWS)


def _line(console: Console, label: str, text: str, style: str) -> None:
    start = Text(f"{label}: " if label else "", style)
    line = start + Text(printable(text), "" if label else style)
    console.print(line, soft_wrap=not console.is_terminal)


def _control(analysis: Analysis, console: Console, all_keys: bool) -> None:
    control, by = analysis.control, analysis.by
    for key in control.confounders:
        text = f"{key.name} differs with {by} ({key.by_group})"
        _line(console, "CONFOUNDED", text, "bold red")
    if control.controlled and len(analysis.final.groups) > 1:
        text = f"of what was recorded, only {by} and what follows from it differ"
        _line(console, "CONTROLLED", text, "bold green")
    if control.unknown:
        _line(console, "unknown, so not compared", "; ".join(control.unknown), "yellow")
    for role, label in (
        ("crossed", "also vary, compared at equal values"),
        ("tuned", "tuned"),
        ("consequence", f"follows from {by}"),
    ):
        keys = [k for k in control.keys if k.role == role]
        text = "; ".join(f"{k.name} ({k.values})" for k in keys)
        if role == "consequence" and not all_keys:
            text = few((k.name for k in keys), _MOST_KEYS)
            text += " (--keys lists them)" if len(keys) > _MOST_KEYS else ""
        if keys:
            _line(console, label, text, "dim")
