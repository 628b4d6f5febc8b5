"""A comparison as one self-contained HTML page, and its figures as PNG files."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runner.compare import chart_parts, theme
from runner.compare.analysis import Analysis
from runner.compare.figures import Figure, figures
from runner.compare.headline import at_equal_cost, headline
from runner.compare.load import Runs
from runner.compare.tables import shown, tables
from runner.compare.theme import DASHES, PALETTE
from runner.record.files import write_bytes
from runner.record.provenance import command_line

PAGE = "report.html"

# Vega-Lite's version for vl-convert: the one that this Altair writes.
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
_PNG_WIDTH = 720  # CSS pixels, drawn at twice as many
_VERSIONS = ("jax-experiment-runner", "polars", "altair", "vl-convert-python")


def write_report(runs: Runs, analysis: Analysis, out: Path) -> None:
    """Write the page, `report.html`, and `<figure>.png` for each figure into `out`.

    The page includes the Vega libraries (0.9 MB) and requests nothing from a server.
    Files are replaced atomically.

    Raises:
      OSError: `out` can't be written.
    """
    with ThreadPoolExecutor(1) as other:
        vega = other.submit(_vega)  # takes over a second, as do the figures
        drawn = [*figures(runs, analysis)]
        images = {f"{figure.name}.png": png(figure) for figure in drawn}
        text = page(runs, analysis, drawn, vega.result())
    for name, data in {PAGE: text.encode(), **images}.items():
        write_bytes(out / name, data)


def page(runs: Runs, analysis: Analysis, drawn: Sequence[Figure], vega: str) -> str:
    """The page as HTML; `vega` is the JavaScript that draws the figures."""
    legend = {"legend": {"disable": True}}  # the page has one for all figures
    configs = {mode: theme.config(mode) | legend for mode in ("light", "dark")}
    specs = {figure.name: _spec(figure.chart) for figure in drawn}
    groups = chart_parts.shown(runs, analysis).groups
    in_sections = groupby(tables(runs, analysis), lambda table: table.section)
    found = headline(analysis)
    if not found.startswith(tuple(group.name for group in analysis.final.groups)):
        found = found[:1].upper() + found[1:]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.loader = PackageLoader("runner.compare", ".")
    strict = {"allow_nan": False, "separators": (",", ":")}
    environment.policies["json.dumps_kwargs"] = strict
    return environment.get_template("page.html.j2").render(
        title=f"Comparison by {analysis.by}",
        analysis=analysis,
        count=runs.table.height,
        headline=found + "." * (not found.endswith(".")),
        at_equal_cost=[*at_equal_cost(analysis)],
        sections={section: [*found] for section, found in in_sections},
        shown=shown,
        figures=drawn,
        legend=[*zip(groups, PALETTE, DASHES, strict=False)],
        hidden=len(analysis.final.groups) - len(groups),
        made={
            "Command": command_line(),
            "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "Versions": ", ".join(f"{name} {version(name)}" for name in _VERSIONS),
        },
        data={"figures": specs, "configs": configs},
        vega=Markup(vega),
    )


def png(figure: Figure) -> bytes:
    """`figure` on white, with its title, as PNG."""
    spec = _spec(figure.chart.properties(width=_PNG_WIDTH))
    # An image has no mouse, and thousands of invisible dots to hover over are slow.
    spec["layer"] = [v for v in spec["layer"] if v.get("name", "")[:5] != "hover"]
    spec["params"] = [p for p in spec["params"] if "select" not in p]
    spec["title"] = figure.title
    spec["padding"] = 12
    spec["config"] = theme.config("light") | {"background": theme.PAPER["light"]}
    return vl_convert.vegalite_to_png(spec, vl_version=_VEGA_LITE, scale=2)


def _spec(chart: alt.LayerChart) -> dict[str, Any]:
    """Vega-Lite's JSON, without backslashes in titles, such as a control character's.

    Vega-Lite also puts titles into expressions, where a backslash begins an escape.
    """

    def titled(part: dict[str, Any]) -> dict[str, Any]:
        if isinstance(title := part.get("title"), str):
            part["title"] = title.replace("\\", "\N{SET MINUS}")
        return part

    # Not against its schema, which takes longer than drawing it; tests do.
    return json.loads(chart.to_json(validate=False), object_hook=titled)


def _vega() -> str:
    # The HTML parser ends a script at this text, even inside a string literal.
    bundle = vl_convert.javascript_bundle(vl_version=_VEGA_LITE)  # pyright: ignore
    return bundle.replace("</script", r"<\/script")
