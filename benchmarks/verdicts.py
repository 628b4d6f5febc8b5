"""How often compare's statements are right, on made-up runs whose truth is known.

    python benchmarks/verdicts.py [--experiments 1000]

It prints the tables of docs/compare.md. Each experiment makes final losses of some
seeds, which runs with the same seed share in part, and asks compare's own functions.
The seeds of the experiments are fixed, so the tables are the same again.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from runner.compare.inference import mean_of, seeds_needed
from runner.compare.statistics import Comparison, compare, groups
from runner.compare.tuning import at_budget, tune

# Noise around 0. The last two have heavy tails; the last one's are on one side.
NOISE: dict[str, Callable[[np.random.Generator, Sequence[int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "Student's t, 3 degrees": lambda rng, shape: rng.standard_t(3, shape),
    "lognormal": lambda rng, shape: rng.lognormal(0, 1, shape) - np.exp(0.5),
}
SEEDS = (3, 5, 10, 20)


def coverage(kind: str, seeds: int, experiments: int) -> tuple[float, float]:
    """How often the interval of a mean, and of a paired difference, has the truth."""
    rng = np.random.default_rng(seeds)
    a, b = NOISE[kind](rng, (2, experiments, seeds))
    means, differences = mean_of(a), mean_of(a - b)
    return tuple(
        float(np.mean((found.low <= 0) & (0 <= found.high)))
        for found in (means, differences)
    )  # type: ignore[return-value]


def verdicts(values: np.ndarray) -> tuple[Comparison, ...]:
    """What compare says of final losses [group, seed]."""
    count, seeds = values.shape
    rows = pl.DataFrame(
        {
            "group": np.repeat([f"g{i}" for i in range(count)], seeds),
            "seed": np.tile(np.arange(seeds), count),
            "value": values.ravel(),
        }
    ).with_columns(cell=pl.lit(""), setting=pl.lit(""), failed=pl.lit(False))
    return compare(rows, groups(rows, rows, False), False, cells=False)


def labels(found: Sequence[Comparison]) -> tuple[bool, bool]:
    """Whether there is a winner, and whether any pair is said to differ."""
    ranked = [c for c in found if c.verdict in ("better", "worse")]
    best = [c for c in found if c.a == found[0].a]
    return all(c.verdict == "better" for c in best), bool(ranked)


def false_labels(kind: str, count: int, seeds: int, experiments: int) -> np.ndarray:
    """The shares of experiments with `count` equal groups: a winner, any difference."""
    values = _equal(kind, count, seeds, experiments)
    return np.mean([labels(verdicts(v)) for v in values], axis=0)


def any_difference(kind: str, count: int, seeds: int, experiments: int) -> float:
    """The second of them alone, for many experiments: by Holm's smallest p value."""
    values = _equal(kind, count, seeds, experiments)
    first, second = np.triu_indices(count, 1)
    p_values = mean_of(values[:, first] - values[:, second]).p_value
    return float(np.mean(p_values.min(1) * len(first) < 0.05))


def _equal(kind: str, count: int, seeds: int, experiments: int) -> np.ndarray:
    """Final losses [experiment, group, seed], in part shared by a seed's runs."""
    rng = np.random.default_rng(100 * count + seeds)
    shared = rng.standard_normal((experiments, 1, seeds))
    return shared + NOISE[kind](rng, (experiments, count, seeds))


def false_after_tuning(tries: Sequence[int], seeds: int, experiments: int) -> float:
    """The share with a winner, of equal groups that tried so many equal settings."""
    rng = np.random.default_rng(sum(tries) + seeds)
    found = 0
    for _ in range(experiments):
        group = np.repeat(
            [f"g{i}" for i in range(len(tries))], np.multiply(tries, seeds)
        )
        setting = np.concatenate([np.repeat(np.arange(n), seeds) for n in tries])
        rows = pl.DataFrame({"group": group, "rate": setting}).with_columns(
            cell=pl.lit(""),
            setting=pl.col("rate").cast(pl.String),
            seed=pl.Series(np.tile(np.arange(seeds), sum(tries))),
            value=pl.Series(rng.standard_normal(sum(tries) * seeds)),
            failed=pl.lit(False),
        )
        tuning = tune(rows, ["rate"], None, False)
        at = at_budget(rows, tuning)
        found += labels(compare(at, groups(at, rows, False), False, cells=False))[0]
    return found / experiments


def power(count: int, pilot: int, experiments: int) -> tuple[float, int]:
    """How often the advice, followed, separates half a standard deviation.

    Of `count` groups one is better by that. The first `pilot` seeds leave them not
    separable, or they don't count; then those that were advised are added.
    """
    rng = np.random.default_rng(10 * count + pilot)
    total = max(pilot, seeds_needed(count * (count - 1) // 2))
    separated, followed = 0, 0
    while followed < experiments:
        # Independent noise of 1 / sqrt(2), so that differences deviate by 1.
        values = rng.standard_normal((count, total)) * np.sqrt(0.5)
        values[0] -= 0.5
        if _separates(verdicts(values[:, :pilot])):
            continue
        followed += 1
        separated += _separates(verdicts(values))
    return separated / experiments, total


def _separates(found: Sequence[Comparison]) -> bool:
    """Whether the first group is told from the second."""
    (one,) = [c for c in found if {c.a, c.b} == {"g0", "g1"}]
    return one.verdict in ("better", "worse")


def _head(*names: str) -> Iterator[str]:
    yield f"\n| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"


def tables(experiments: int) -> Iterator[str]:
    """Lines of Markdown."""
    yield from _head("noise", "seeds", "a mean's interval", "a paired difference's")
    for kind in NOISE:
        for seeds in SEEDS:
            mean, difference = coverage(kind, seeds, 50 * experiments)
            yield f"| {kind} | {seeds} | {mean:.1%} | {difference:.1%} |"
    yield from _head("equal groups", "noise", "seeds", "a winner", "any difference")
    for count in (2, 3, 5, 10):
        for kind in NOISE:
            for seeds in (3, 5, 10):
                winner, _ = false_labels(kind, count, seeds, experiments)
                differ = any_difference(kind, count, seeds, 20 * experiments)
                yield f"| {count} | {kind} | {seeds} | {winner:.1%} | {differ:.1%} |"
    yield from _head("settings tried", "seeds", "a winner")
    for tries in ((9, 1), (9, 3), (9, 9), (9, 9, 1)):
        for seeds in (3, 5, 10):
            share = false_after_tuning(tries, seeds, 5 * experiments)
            yield f"| {' and '.join(map(str, tries))} | {seeds} | {share:.1%} |"
    yield from _head("groups", "seeds at first", "in all", "separated")
    for count in (2, 3, 5):
        for pilot in (3, 5, 10):
            share, total = power(count, pilot, experiments)
            yield f"| {count} | {pilot} | {total} | {share:.1%} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=1000)
    for line in tables(parser.parse_args().experiments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
