"""The sections of the page. A section with nothing to say is left out."""

from collections.abc import Iterator, Sequence
from html import escape

import polars as pl

from runner.compare import chart_parts
from runner.compare.analysis import Analysis
from runner.compare.columns import texts
from runner.compare.figures import Figure
from runner.compare.load import Runs
from runner.compare.markup import Html, bullets, details, section, table
from runner.compare.statistics import Comparison
from runner.compare.theme import DASHES, PALETTE


def sections(
    runs: Runs, analysis: Analysis, figures: Sequence[Figure]
) -> Iterator[Html]:
    """The page from the verdict to the table of runs."""
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
    """Whether the comparison is controlled and, if not, what is confounded."""
    control = analysis.control
    unknown = ""
    if control.unknown:
        unknown = f"<p class=note>Not checked: {escape('; '.join(control.unknown))}</p>"
    if control.controlled:
        told = (
            "<p><strong>✓ Controlled comparison.</strong> Besides "
            f"<code>{escape(analysis.by)}</code> nothing differs between the groups "
            "that would not follow from it.</p>"
        )
        return Html(f'<div class="verdict controlled">{told}{unknown}</div>')
    items = [escape(sentence) for sentence in control.impostors]
    for key in control.confounders:
        values = "; ".join(
            f"{escape(group)}: {escape(', '.join(values))}"
            for group, values in key.by_group.items()
        )
        items.append(f"<code>{escape(key.name)}</code> differs too ({values})")
    told = (
        "<p><strong>⚠ Confounded: not a fair comparison.</strong> A difference between "
        f"the groups need not come from <code>{escape(analysis.by)}</code>:</p>"
    )
    lines = "".join(f"<li>{item}</li>" for item in items)
    return Html(
        f'<div class="verdict confounded" role="alert">{told}<ul>{lines}</ul>'
        f"{unknown}</div>"
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
    yield Html(
        f'<p class="note">Final {escape(metric)}; {direction} is better. Mean over '
        "seeds with a bootstrap interval.</p>"
    )
    yield table("Results", [*head, "seeds", "runs", "diverged"], rows)


_PAIR_HEAD = ["pair", "verdict", "difference", "95 % from", "to"]
_PAIR_HEAD += ["improves", "p", "seeds", "more seeds needed"]


def _comparisons(analysis: Analysis) -> Iterator[Html]:
    if not analysis.comparisons:
        return
    yield Html(
        '<p class="note">First minus second, seed by seed. “Improves” is how often the '
        "first was better; p is of a paired t test, corrected for the number of pairs "
        "(Holm).</p>"
    )
    rows = [_pair(c) for c in analysis.comparisons]
    yield table("Pair by pair", _PAIR_HEAD, rows)
    if analysis.cells:
        rows = [[c.cell, *_pair(c)] for c in analysis.cells]
        body = table("Pair by pair, within each cell", ["where", *_PAIR_HEAD], rows)
        yield details(f"Within each combination of the rest ({len(rows)})", body)


def _pair(c: Comparison) -> list[object]:
    told = f"{c.a} is {c.verdict}" if c.verdict in ("better", "worse") else c.verdict
    css = c.verdict if c.verdict in ("better", "worse") else "note"
    verdict = Html(f'<span class="{css}">{escape(told)}</span>')
    needed = "over 1000" if (c.more_seeds or 0) > 1000 else c.more_seeds
    numbers = [c.difference, c.low, c.high, c.improvement, c.p_value]
    return [f"{c.a} minus {c.b}", verdict, *numbers, len(c.differences), needed]


def _tuning(analysis: Analysis) -> Iterator[Html]:
    tuning = analysis.tuning
    if not tuning.keys:
        return
    budget = "" if tuning.budget is None else f" Declared budget: {tuning.budget} each."
    tried = ", ".join(f"{group}: {count}" for group, count in tuning.tried.items())
    yield Html(
        '<p class="note">Each group is compared at its own best setting of '
        f"<code>{escape(', '.join(tuning.keys))}</code>. Settings tried: "
        f"{escape(tried)}.{budget}</p>"
    )
    head = [analysis.by, "where", "best setting", "mean", "lowest", "highest", "edge"]
    chosen = tuning.sensitivity.filter("chosen")
    rows = [
        [r["group"], r["cell"] or None, r["setting"], r["mean"], r["low"], r["high"]]
        + [_edge(tuning.sensitivity, r, tuning.keys)]
        for r in chosen.iter_rows(named=True)
    ]
    yield table("Best settings", head, rows)
    columns = ["group", "cell", "setting", "mean", "low", "high", "runs", "diverged"]
    head = [analysis.by, "where", "setting", "mean", "lowest", "highest", *columns[-2:]]
    every = tuning.sensitivity.select(columns).rows()
    yield details(
        f"All {len(every)} settings tried", table("All settings", head, every)
    )


def _edge(tried: pl.DataFrame, row: dict, keys: Sequence[str]) -> Html | None:
    """Which keys are at an end of what was tried, where a better value may lie."""
    same = tried.filter(group=row["group"], cell=row["cell"])
    ends = [
        key
        for key in keys
        if same[key].dtype.is_numeric()
        and same[key].n_unique() > 1
        and row[key] in (same[key].min(), same[key].max())
    ]
    if not ends:
        return None
    return Html(f'<span class="worse">extend {escape(", ".join(ends))}</span>')


def _targets(analysis: Analysis) -> Iterator[Html]:
    if not analysis.targets:
        return
    yield Html(
        f'<p class="note">Medians until {escape(analysis.metric)} reached '
        f"{analysis.target:g}; a dash where half of the runs never did.</p>"
    )
    head = [analysis.by, "runs", "reached it", "steps", "seconds"]
    yield table("Time to target", head, analysis.targets)


def _attribution(analysis: Analysis) -> Iterator[Html]:
    if not analysis.attribution:
        return
    head = ["factor", "share of the variance", "largest difference", "relative"]
    yield table(
        "What explains the differences",
        head,
        [
            [a.factor, a.share and Html(f"{a.share:.1%}")]
            + [a.largest_difference, a.relative]
            for a in analysis.attribution
        ],
    )


def _keys(analysis: Analysis) -> Html:
    rows = []
    for key in analysis.control.keys:
        more = f" and {key.distinct - len(key.values)} more"
        values = ", ".join(key.values) + more * (key.distinct > len(key.values))
        css = "worse" if key.role == "confounder" else ""
        rows.append([key.name, Html(f'<span class="{css}">{key.role}</span>'), values])
    if not rows:
        return Html()
    return table("What varies", ["key", "role", "values"], rows)


def _figures(
    runs: Runs, analysis: Analysis, figures: Sequence[Figure]
) -> Iterator[Html]:
    if not figures:
        return
    shown = chart_parts.shown(runs, analysis)
    left_out = len(analysis.groups) - len(shown.groups)
    if left_out:
        yield Html(
            f'<p class="note">The figures show the best {len(shown.groups)} of '
            f"{len(analysis.groups)} groups; more can't be told apart.</p>"
        )
    yield _series(analysis.by, shown.groups)
    for figure in figures:
        yield Html(
            f"<figure><figcaption><h3>{escape(figure.title)}</h3>"
            f"<p>{escape(figure.caption)}</p></figcaption>"
            f'<div class="plot" id="plot-{escape(figure.name)}"></div></figure>'
        )


def _series(by: str, groups: Sequence[str]) -> Html:
    """The legend of all figures: boxes that a keyboard reaches too."""
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
    keys = [*analysis.crossed, *analysis.tuning.keys]
    final = f"final.{analysis.metric}"
    used = set(analysis.used["run"])
    columns = [
        runs.table["run"],
        texts(runs.table[analysis.by]),
        *(texts(runs.table[key]) for key in keys),
        runs.table["seed"],
        runs.table[final],
        runs.table["status"],
        ["yes" if run in used else "no" for run in runs.table["run"]],
        runs.table["wall_seconds"],
        runs.table["folder"],
    ]
    head = ["run", analysis.by, *keys, "seed", f"final {analysis.metric}", "status"]
    head += ["compared", "seconds", "folder"]
    return table("Runs", head, zip(*columns, strict=True))
