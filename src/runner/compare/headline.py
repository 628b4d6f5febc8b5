"""The main finding in one sentence."""

from collections.abc import Iterator

from runner.compare.analysis import Analysis, Verdicts
from runner.compare.inference import SHOWN
from runner.compare.statistics import Comparison
from runner.compare.tables import brackets


def headline(analysis: Analysis) -> str:
    """What the analysis found, or why it can't say."""
    by, found, control = analysis.by, analysis.final, analysis.control
    groups = found.groups
    unfair = f"no fair comparison by {by}"
    for label, sentences in control.apart.items():
        if label != "MISLABELED" or not control.confounders:
            return f"{unfair}: {sentences[0]}"
    if control.confounders:
        parts = [f"{k.name} differs too ({k.by_group})" for k in control.confounders]
        return f"{unfair}: {'; '.join(parts)}"
    if len(groups) == 1:
        return f"nothing to compare: {by} is {groups[0].name} in all runs that ended"
    if {c.verdict for c in found.comparisons} == {"agree"}:
        pairs = (*found.comparisons, *found.cells)
        largest = max(abs(d) for c in pairs for d in c.differences.values())
        return (
            f"{_join([g.name for g in groups])} agree on {analysis.metric} within 1e-4 "
            f"of its value (largest difference {largest:.1g}){_other_factors(analysis)}"
        )
    explains = f"{by} explains the difference: " if _explains_most(analysis) else ""
    return _ranking(analysis, found, explains) + _other_factors(analysis)


def at_equal_cost(analysis: Analysis) -> Iterator[str]:
    """The verdict at an equal cost, for each kind of cost that differs."""
    if analysis.control.controlled and len(analysis.final.groups) > 1:
        for unit, (cost, found) in analysis.at_cost.items():
            yield f"at {cost:.4g} {unit} each: {_ranking(analysis, found)}"


def _ranking(analysis: Analysis, found: Verdicts, explains: str = "") -> str:
    by, metric, groups = analysis.by, analysis.metric, found.groups
    best = [c for c in found.comparisons if c.a == groups[0].name]
    second, tuning, none = best[0], found.tuning, f"no ranking by {by}"
    if not tuning.matched:
        tried = ", ".join(f"{name} {count}" for name, count in tuning.tried.items())
        return f"{none}: unequal tuning (settings tried: {tried})"
    if any(c.verdict == "no pairs" for c in best):
        if all(g.failed == g.runs for g in groups):
            return f"{none}: all runs failed"
        return f"{none}: the groups have no settings and seeds in common"
    if any(c.verdict == "one seed" for c in best):
        chance = "one seed can't tell a difference from chance"
        return f"{none}: {chance} ({_difference(second)})"
    of = f", at the best of {tuning.budget} settings each" if tuning.budget else ""
    if all(c.verdict == "better" for c in best):
        more = f", the second of {len(groups)}," if len(groups) > 2 else ""
        better = f"{explains}{second.a} is better than {second.b}{more} on {metric}"
        return f"{better} by {_interval(second)}{of}"
    ties = [c for c in best if c.verdict != "better"]
    tied = [groups[0].name, *(c.b for c in ties)]
    if len(tied) > 4:
        tied[3:] = [f"{len(tied) - 3} others"]
    seeds = ties[0].more_seeds
    which = f"{seeds} more" if seeds else "these"
    more = "" if seeds is None else f"; {which} seeds would show {SHOWN}"
    return (
        f"no best {by} on {metric}: {_join(tied)} are not separable "
        f"({_difference(ties[0])}{of}{more})"
    )


def _difference(c: Comparison) -> str:
    return f"{c.a} minus {c.b} is {_interval(c, signed=True)}"


def _interval(c: Comparison, signed: bool = False) -> str:
    """The mean, its interval and the number of pairs; without `signed` as a size."""
    value, low, high, seeds = c.difference, c.low, c.high, len(c.differences)
    if not signed and value < 0:
        value, low, high = -value, -high, -low
    if seeds == 1:
        return f"{value:.4g} with one seed"
    return f"{value:.4g} {brackets(low, high)}".rstrip() + f" over {seeds} paired seeds"


def _explains_most(analysis: Analysis) -> bool:
    """Whether the factor has more than half of the variance, and others vary too."""
    shares = {part.factor: part.share or 0 for part in analysis.attribution}
    return len({*shares} - {"seed", "rest"}) > 1 and shares.get(analysis.by, 0) > 0.5


def _other_factors(analysis: Analysis) -> str:
    """What the other factors explain, each after a semicolon."""
    found = ""
    for part in analysis.attribution:
        if part.factor in (analysis.by, "seed", "rest"):
            continue
        if part.agrees:
            largest = f"{part.largest_difference:.1g}"
            found += f"; {part.factor} makes no difference (at most {largest})"
        elif part.share is not None:
            found += f"; {part.factor} explains {_percent(part.share)} of the variance"
    return found


def _percent(share: float) -> str:
    if share > 0.999:
        return "over 99.9 %"
    return f"{100 * share:.1f} %" if share > 0.001 else "under 0.1 %"


def _join(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
