"""The sections of the page. An empty section is left out."""

from collections.abc import Iterator, Sequence
from html import escape

import polars as pl

from runner.compare import chart_parts
from runner.compare.analysis import Analysis
from runner.compare.columns import texts
from runner.compare.figures import Figure
from runner.compare.load import Runs
from runner.compare.markup import Html, bullets, details, note, section, table, text
from runner.compare.statistics import Comparison
from runner.compare.theme import DASHES, PALETTE
from runner.compare.tuning import edge_of


def sections(
    runs: Runs, analysis: Analysis, figures: Sequence[Figure]
) -> Iterator[Html]:
    """The page, from the verdict to the table of runs."""
    if len(analysis.groups) > 1 or not analysis.control.controlled:
        yield verdict(analysis)
    if analysis.warnings:
        yield section("Warnings", bullets(analysis.warnings))
    yield section("Results", *_groups(analysis))
    yield section("Pair by pair", *_comparisons(analysis))
    yield section("Tuning", *_tuning(analysis))
    yield section("Time to target", *_targets(analysis))
    yield section("Figures", *_figures(runs, analysis, figures))
    yield section("What explains the differences", *_attribution(analysis))
    yield section("What varies", _keys(analysis))
    yield section("Runs", _runs(runs, analysis))


def verdict(analysis: Analysis) -> Html:
    """Whether the comparison is controlled and, if not, why."""
    control = analysis.control
    unknown = ""
    if control.unknown:
        unknown = note(f"Not checked: {'; '.join(control.unknown)}")
    if control.controlled:
        return Html(
            '<div class="verdict controlled"><p><strong>✓ Controlled comparison.'
            f"</strong> Of what was recorded, only <code>{escape(analysis.by)}</code> "
            f"and what follows from it differ between the groups.</p>{unknown}</div>"
        )
    items = [text(sentence) for sentence in control.mislabeled]
    items += [
        Html(f"<code>{escape(key.name)}</code> differs too ({escape(key.by_group)})")
        for key in control.confounders
    ]
    return Html(
        '<div class="verdict confounded" role="alert"><p><strong>⚠ Confounded: not a '
        "fair comparison.</strong> A difference between the groups need not come from "
        f"<code>{escape(analysis.by)}</code>:</p>{bullets(items)}{unknown}</div>"
    )


def _groups(analysis: Analysis) -> Iterator[Html]:
    metric = analysis.metric
    head = [analysis.by, "setting", f"mean {metric}", "95 % from", "to"]
    rows = [
        [g.name, g.setting or None, g.mean, g.low, g.high]
        + [len(g.values), g.runs, g.diverged]
        for g in analysis.groups
    ]
    direction = "higher" if analysis.higher_is_better else "lower"
    yield note(
        f"Final {metric}; {direction} is better. Mean over seeds with a bootstrap "
        "interval."
    )
    yield table("Results", [*head, "seeds", "runs", "diverged"], rows)


_PAIR_HEAD = ["pair", "verdict", "difference", "95 % from", "to"]
_PAIR_HEAD += ["first better", "p", "seeds", "more seeds needed"]


def _comparisons(analysis: Analysis) -> Iterator[Html]:
    if not analysis.comparisons:
        return
    yield note(
        "First minus second, seed by seed. “First better” is the share of seeds for "
        "which it was; p is of a paired t test, corrected for the number of pairs "
        "(Holm)."
    )
    rows = [_pair(c) for c in analysis.comparisons]
    yield table("Pair by pair", _PAIR_HEAD, rows)
    if analysis.cells:
        rows = [[c.cell, *_pair(c)] for c in analysis.cells]
        body = table("Pair by pair, within each cell", ["cell", *_PAIR_HEAD], rows)
        title = f"Within each value of {', '.join(analysis.crossed)} ({len(rows)})"
        yield details(title, body)


def _pair(c: Comparison) -> list[object]:
    verdict = Html(f'<span class="note">{c.verdict}</span>')
    if c.verdict in ("better", "worse"):
        finding = escape(f"{c.a} is {c.verdict}")
        verdict = Html(f'<span class="{c.verdict}">{finding}</span>')
    needed = "over 1000" if (c.more_seeds or 0) > 1000 else c.more_seeds
    numbers = [c.difference, c.low, c.high, c.improvement, c.p_value]
    return [f"{c.a} minus {c.b}", verdict, *numbers, len(c.differences), needed]


def _tuning(analysis: Analysis) -> Iterator[Html]:
    tuning = analysis.tuning
    if not tuning.keys:
        return
    budget = "" if tuning.budget is None else f" Declared budget: {tuning.budget} each."
    tried = ", ".join(f"{group}: {count}" for group, count in tuning.tried.items())
    yield note(
        f"Each group is compared at its own best setting of {', '.join(tuning.keys)}. "
        f"Settings tried: {tried}.{budget}"
    )
    head = [analysis.by, "cell", "best setting", "mean", "lowest", "highest", "edge"]
    chosen = tuning.sensitivity.filter("chosen")
    rows = [
        [r["group"], r["cell"] or None, r["setting"], r["mean"], r["low"], r["high"]]
        + [_edge(tuning.sensitivity, r, tuning.keys)]
        for r in chosen.iter_rows(named=True)
    ]
    yield table("Best settings", head, rows)
    columns = ["group", "cell", "setting", "mean", "low", "high", "runs", "diverged"]
    head = [analysis.by, "cell", "setting", "mean", "lowest", "highest", *columns[-2:]]
    rows = tuning.sensitivity.select(columns).rows()
    yield details(f"All {len(rows)} settings tried", table("All settings", head, rows))


def _edge(tried: pl.DataFrame, row: dict, keys: Sequence[str]) -> Html | None:
    """The keys at an end of what was tried: a better value may lie beyond it."""
    same = tried.filter(group=row["group"], cell=row["cell"])
    ends = ", ".join(key for key in keys if edge_of(same[key], row[key]))
    return Html(f'<span class="worse">extend {escape(ends)}</span>') if ends else None


def _targets(analysis: Analysis) -> Iterator[Html]:
    if not analysis.targets:
        return
    yield note(
        f"Medians until {analysis.metric} reached {analysis.target:g}; a dash if half "
        "of the runs never did."
    )
    head = [analysis.by, "runs", "reached it", "steps", "seconds"]
    yield table("Time to target", head, analysis.targets)


def _attribution(analysis: Analysis) -> Iterator[Html]:
    if not analysis.attribution:
        return
    head = ["factor", "share of the variance", "largest difference", "relative"]
    rows = [
        [a.factor, a.share and Html(f"{a.share:.1%}"), a.largest_difference, a.relative]
        for a in analysis.attribution
    ]
    yield table("What explains the differences", head, rows)


def _keys(analysis: Analysis) -> Html:
    css = {"confounder": "worse"}
    rows = [
        [k.name, Html(f'<span class="{css.get(k.role, "")}">{k.role}</span>'), k.values]
        for k in analysis.control.keys
    ]
    return table("What varies", ["key", "role", "values"], rows) if rows else Html()


def _figures(
    runs: Runs, analysis: Analysis, figures: Sequence[Figure]
) -> Iterator[Html]:
    if not figures:
        return
    shown = chart_parts.shown(runs, analysis)
    if len(shown.groups) < len(analysis.groups):
        yield note(
            f"The figures show the best {len(shown.groups)} of {len(analysis.groups)} "
            "groups: the eye can't distinguish more."
        )
    yield _legend(analysis.by, shown.groups)
    for figure in figures:
        yield Html(
            f"<figure><figcaption><h3>{escape(figure.title)}</h3>"
            f"<p>{escape(figure.caption)}</p></figcaption>"
            f'<div class="plot" id="plot-{escape(figure.name)}"></div></figure>'
        )


def _legend(by: str, groups: Sequence[str]) -> Html:
    """The legend of all figures, whose checkboxes show and hide groups."""
    boxes = []
    for group, colour, dash in zip(groups, PALETTE, DASHES, strict=False):
        line = (
            '<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true"><line x1="0" '
            f'x2="26" y1="5" y2="5" stroke="{colour}" stroke-width="3" '
            f'stroke-dasharray="{" ".join(map(str, dash))}"/></svg>'
        )
        box = f'<input type="checkbox" checked value="{escape(group)}">'
        boxes.append(f"<label>{box}{line}{escape(group)}</label>")
    return Html(
        f'<fieldset id="series"><legend>{escape(by)}</legend>{"".join(boxes)}'
        "</fieldset>"
    )


def _runs(runs: Runs, analysis: Analysis) -> Html:
    found, used = runs.table, set(analysis.used["run"])
    keys = [analysis.by, *analysis.crossed, *analysis.tuning.keys]
    columns = [
        ("run", found["run"]),
        *((key, texts(found[key])) for key in keys),
        ("seed", found["seed"]),
        (f"final {analysis.metric}", found[f"final.{analysis.metric}"]),
        ("status", found["status"]),
        ("compared", ["yes" if run in used else "no" for run in found["run"]]),
        ("seconds", found["wall_seconds"]),
        ("folder", found["folder"]),
    ]
    head, values = zip(*columns, strict=True)
    return table("Runs", head, zip(*values, strict=True))
