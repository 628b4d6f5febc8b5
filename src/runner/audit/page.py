"""An audit as a page, and as JSON."""

import math
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from runner.audit import text
from runner.audit.audit import Audit
from runner.audit.verdict import Verdict
from runner.record.files import write_bytes, write_json
from runner.record.provenance import command_line

PAGE, DATA = "audit.html", "audit.json"


def write(audit: Audit, out: Path) -> None:
    """Write the page and the data into `out`, each of them whole or not at all.

    Raises:
      OSError: it can't be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DATA, data(audit))
    write_bytes(out / PAGE, page(audit).encode())


def data(audit: Audit) -> dict[str, Any]:
    """All findings as plain values."""
    return {
        "source": audit.table.source,
        "settings": audit.table.settings,
        "seeds": audit.table.seeds,
        "findings": text.findings(audit),
        "cells": [
            v.cell._asdict()
            | {"step": v.step, "values": v.values, "outcome": v.outcome, "why": v.why}
            | {"our_mean": v.mean, "our_std": v.std, "difference": v.difference}
            | {"interval": [v.low, v.high]}
            for v in audit.verdicts
        ],
        "open": [
            {"factor": e.candidate.factor, "value": e.candidate.overrides}
            | {"cells": sorted(e.candidate.cells), "explained": e.explained}
            | {"reproduced": e.reproduced, "why": e.why}
            for e in audit.explanations
        ],
        "explains_most": audit.best and audit.best.candidate.factor,
    }


def page(audit: Audit) -> str:
    """The page as HTML, with the style of compare's. It requests nothing."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template, style = files("runner.audit") / "page.html.j2", files("runner.compare")
    return environment.from_string(_read(template)).render(
        title=f"Audit of {audit.table.path.stem}",
        audit=audit,
        text=text,
        bars=[_bar(v) for v in audit.verdicts],
        made={
            "Command": command_line(),
            "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "Version": version("jax-experiment-runner"),
        },
        css=Markup(_read(style / "page.css")),
        js=Markup(_read(style / "page.js")),
    )


def _bar(verdict: Verdict) -> dict[str, str] | None:
    """Where the difference and its interval are drawn, 0 being at 70 of 140."""
    low, high = verdict.low, verdict.high
    if math.isnan(low) or low == high:
        return None
    end = 1.1 * max(abs(low), abs(high))
    drawn = {"low": low, "high": high, "difference": verdict.difference}
    return {name: f"{70 + 70 * value / end:.1f}" for name, value in drawn.items()}


def _read(file: Any) -> str:
    return file.read_text(encoding="utf-8")
