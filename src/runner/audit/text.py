"""What an audit found, in words and numbers for the terminal and the page."""

import math

from rich.console import Console

from runner.audit.audit import Audit
from runner.audit.verdict import Explanation, Verdict
from runner.errors import few
from runner.record.console import print_table
from runner.record.untrusted import printable

METHOD = (
    "Differences are ours minus the published mean, with Welch's interval, which has "
    "the standard errors of both; with fewer than five runs Student's, as if both "
    "spread alike. All intervals of a table hold together at 95 % (Bonferroni): what "
    "is reproduced may differ by as much as its interval says. A value of an open "
    "factor explains the share of the squared differences, in units of these "
    "intervals, that goes when it alone is changed."
)


def findings(audit: Audit) -> list[str]:
    """What was found, the most important first."""
    cells, count = audit.verdicts, len(audit.verdicts)
    reproduced = sum(v.outcome == "reproduced" for v in cells)
    parts = [f"{reproduced} of {count} cells are reproduced"]
    differ = [v for v in cells if v.outcome == "differs"]
    if differ:
        most = max(differ, key=lambda v: abs(v.difference) / (v.high - v.low or 1e-99))
        rest = f"{len(differ)} differ, most of all " if len(differ) > 1 else ""
        name = f"{rest}{most.cell.name}" + " differs" * (not rest)
        parts.append(f"{name} by {difference(most)} {interval(most)}")
    for outcome in ("undecided", "not run"):
        names = few([v.cell.name for v in cells if v.outcome == outcome], 3)
        if names:
            parts.append(f"{outcome}: {names}")
    if audit.explanations:
        parts.append(_explained(audit))
    if audit.edited:
        parts.append(
            f"some runs are older than {few(audit.edited)}, which was edited since: "
            "remove their folder to train them again"
        )
    return parts


def _explained(audit: Audit) -> str:
    best = audit.best
    if best is None:
        return "no open factor alone explains half of it"
    return (
        f"{best.candidate.factor} alone explains most: with {value(best)}, "
        f"{best.reproduced} of {len(audit.verdicts)} cells are reproduced and "
        f"{best.explained:.0%} of the differences go"
    )


def value(explanation: Explanation) -> str:
    """The value of an open factor, as overrides."""
    return " ".join(explanation.candidate.overrides)


def spread(mean: float, std: float | None, n: int) -> str:
    """A mean with two digits of its standard deviation, such as 87.045 ± 0.025 (10)."""
    if math.isnan(mean):
        return ""
    if not std or math.isnan(std):
        return f"{mean:.6g} ({n})"
    digits = max(0, 1 - math.floor(math.log10(std)))
    return f"{mean:.{digits}f} ± {std:.{digits}f} ({n})"


def published(verdict: Verdict) -> str:
    """The cell as published."""
    return spread(verdict.cell.mean, verdict.cell.std, verdict.cell.n)


def ours(verdict: Verdict) -> str:
    """The cell as we measured it."""
    return spread(verdict.mean, verdict.std, len(verdict.values))


def difference(verdict: Verdict) -> str:
    """Ours minus the published mean."""
    return "" if math.isnan(verdict.difference) else f"{verdict.difference:+.4g}"


def interval(verdict: Verdict) -> str:
    """That of the difference."""
    if math.isnan(verdict.low):
        return ""
    return f"[{verdict.low:.3g}, {verdict.high:.3g}]"


def share(explanation: Explanation) -> str:
    """What a value explains, in words where it explains nothing."""
    if explanation.why:
        return "its runs failed"
    if explanation.explained < 0.005:
        return "nothing" if explanation.explained > -0.005 else "less than nothing"
    return f"{explanation.explained:.0%}"


def show(audit: Audit, out: Console) -> None:
    """Print the finding, the verdict on each cell, and what explains the rest."""
    found = printable("; ".join(findings(audit)))
    out.print(found, style="bold", soft_wrap=not out.is_terminal)
    head = ("cell", "step", "published", "ours", "difference", "interval", "verdict")
    rows = [
        [v.cell.name, str(v.step), published(v), ours(v), difference(v), interval(v)]
        + [f"{v.outcome}: {v.why}" if v.why else v.outcome]
        for v in audit.verdicts
    ]
    print_table(head, rows, out, title=f"{audit.table.path.stem}, {audit.runs} runs")
    head = ("open factor", "value", "explains", "reproduced", "")
    rows = [
        [e.candidate.factor, value(e), share(e), str(e.reproduced), e.why]
        for e in audit.explanations
    ]
    print_table(head, rows, out, title="what explains the differences")
    out.print()
    out.print(METHOD, style="dim", soft_wrap=not out.is_terminal)
