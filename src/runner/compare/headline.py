"""The finding in one sentence."""

from runner.compare.analysis import Analysis
from runner.compare.attribution import Attribution
from runner.compare.statistics import Comparison


def headline(analysis: Analysis) -> str:
    """What the analysis found, or why it can't say."""
    by, metric, names = analysis.by, analysis.metric, analysis.groups
    if analysis.control.confounders:
        told = "; ".join(
            f"{key.name} differs with it ("
            + ", ".join(f"{g}: {'/'.join(v)}" for g, v in key.by_group.items())
            + ")"
            for key in analysis.control.confounders
        )
        return f"no fair comparison by {by}: {told}"
    if analysis.control.impostors:
        return f"no fair comparison by {by}: its runs did not do what they are called"
    if len(names) == 1:
        return f"nothing to compare: {by} is {names[0].name} in all finished runs"
    verdicts = {c.verdict for c in analysis.comparisons}
    others = _others(analysis)
    if verdicts == {"agree"}:
        pairs = (*analysis.comparisons, *analysis.cells)
        largest = max(abs(d) for c in pairs for d in c.differences.values())
        told = f"{_join([g.name for g in names])} agree on {metric} within 1e-4"
        return f"{told} of its value (largest difference {largest:.1g})" + _tail(others)
    return _ranking(analysis) + _tail(others)


def _ranking(analysis: Analysis) -> str:
    by, metric, names = analysis.by, analysis.metric, analysis.groups
    best = [c for c in analysis.comparisons if c.a == names[0].name]
    next_one = best[0]
    if any(c.verdict == "no pairs" for c in best):
        return f"no ranking by {by}: groups have no runs in common settings and seeds"
    if any(c.verdict == "one seed" for c in best):
        return (
            f"no ranking by {by}: one seed can't tell a difference from chance "
            f"({_difference(next_one, metric)})"
        )
    if all(c.verdict == "better" for c in best):
        more = f", the next of {len(names)}," if len(names) > 2 else ""
        explains = _share(analysis.attribution, by)
        start = f"{by} explains the difference: " if explains else ""
        return (
            f"{start}{next_one.a} is better than {next_one.b}{more} on {metric} by "
            + (_interval(next_one))
        )
    ties = [c for c in best if c.verdict != "better"]
    tied = [names[0].name, *(c.b for c in ties)]
    told = _join(tied if len(tied) <= 4 else [*tied[:3], f"{len(tied) - 3} others"])
    worst = max(ties, key=lambda c: c.more_seeds or 0)
    return (
        f"no best {by} on {metric}: {told} are not separable "
        f"({_difference(ties[0], metric)}{_needed(worst)})"
    )


def _difference(comparison: Comparison, metric: str) -> str:
    return (
        f"{comparison.a} minus {comparison.b} is {_interval(comparison, signed=True)}"
    )


def _interval(comparison: Comparison, signed: bool = False) -> str:
    """The mean, its interval and the number of pairs; without `signed` as a size."""
    value, low, high = comparison.difference, comparison.low, comparison.high
    if not signed and value < 0:
        value, low, high = -value, -high, -low
    seeds = len(comparison.differences)
    if seeds == 1:
        return f"{value:.4g} with one seed"
    return f"{value:.4g} [{low:.4g}, {high:.4g}] over {seeds} paired seeds"


def _needed(comparison: Comparison) -> str:
    more = comparison.more_seeds
    if more is None:
        return ""
    told = "more than 1000" if more > 1000 else f"about {more}"
    return f"; {told} more seeds would be needed"


def _share(parts: tuple[Attribution, ...], by: str) -> bool:
    """Whether `by` has the largest share among several factors besides the seed."""
    shares = {p.factor: p.share or 0 for p in parts if p.factor not in ("seed", "rest")}
    return len(shares) > 1 and shares.get(by) == max(shares.values())


def _others(analysis: Analysis) -> list[Attribution]:
    skip = (analysis.by, "seed", "rest")
    return [p for p in analysis.attribution if p.factor not in skip]


def _tail(others: list[Attribution]) -> str:
    """What the other factors do, after a semicolon."""
    told = [
        f"{p.factor} does not (largest difference {p.largest_difference:.1g})"
        if p.agrees
        else f"{p.factor} explains {_percent(p.share)} of the variance"
        for p in others
        if p.agrees or p.share is not None
    ]
    return "".join(f"; {t}" for t in told)


def _percent(share: float | None) -> str:
    share = share or 0
    if share > 0.999:
        return "over 99.9 %"
    return f"{100 * share:.1f} %" if share > 0.001 else "under 0.1 %"


def _join(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
