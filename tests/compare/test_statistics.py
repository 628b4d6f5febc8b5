import math

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.made_up_runs import run
from runner.compare.analysis import analyse
from runner.compare.inference import holm, mean_of, seeds_needed
from runner.compare.load import tables
from runner.compare.statistics import compare, groups


def used(values, cell="", setting=""):
    """{group: values by seed} as rows."""
    rows = [
        {"run": f"{g}{s}", "group": g, "cell": cell, "setting": setting, "seed": s}
        | {"value": float(v), "failed": False}
        for g, by_seed in values.items()
        for s, v in enumerate(by_seed)
        if v is not None
    ]
    return pl.DataFrame(rows)


def compared(rows, higher=False, cells=False):
    return compare(rows, groups(rows, rows, higher), higher, cells)


def noise(seeds, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(seeds)


def test_a_paired_difference_is_found_below_the_noise_of_the_seeds():
    shared, own = noise(10, 1.0), noise(10, 0.02, seed=1)
    rows = used({"adam": 0.3 + shared, "sgd": 0.4 + shared + own})
    first, second = groups(rows, rows, False)
    assert (first.name, second.name) == ("adam", "sgd")
    assert first.low < second.mean < first.high  # unpaired they overlap
    (c,) = compared(rows)
    assert (c.a, c.b, c.verdict, c.more_seeds) == ("adam", "sgd", "better", None)
    assert c.difference == pytest.approx(-0.1 - own.mean())
    t = scipy.stats.t.interval(0.95, 9, -0.1 - own.mean(), scipy.stats.sem(own))
    assert (c.low, c.high) == pytest.approx(t)
    assert c.p_value == pytest.approx(scipy.stats.ttest_1samp(-0.1 - own, 0).pvalue)
    # Each seed says the same, and of all pairs of runs hardly more than half.
    assert c.wins == 1
    expected = scipy.stats.mannwhitneyu(0.4 + shared + own, 0.3 + shared).statistic
    assert c.probability == pytest.approx(expected / 100) and 0.5 < c.probability < 0.6


def test_higher_is_better_turns_it_round():
    rows = used({"adam": [0.9, 0.91, 0.92], "sgd": [0.5, 0.52, 0.51]})
    assert [g.name for g in groups(rows, rows, True)] == ["adam", "sgd"]
    (c,) = compared(rows, higher=True)
    assert (c.a, c.verdict, c.wins, c.probability) == ("adam", "better", 1, 1)


def test_identical_groups_agree_and_rounding_does_not_rank():
    values = 1 + noise(5, 0.1)
    (c,) = compared(used({"jax": values, "nnx": values}))
    assert c.verdict == "agree" and c.wins == 0.5 and c.p_value == 1
    (c,) = compared(used({"jax": values, "nnx": values * (1 + 1e-6)}))
    assert c.verdict == "agree"  # though each seed says the same
    (c,) = compared(used({"jax": values, "nnx": values * (1 + 1e-3)}))
    assert c.verdict == "better"


def test_noise_is_not_separable():
    rows = used({"a": noise(8, seed=3), "b": noise(8, seed=4)})
    (c,) = compared(rows)
    assert c.verdict == "not separable" and c.low < 0 < c.high
    assert c.more_seeds == 34 - 8


def test_one_seed_is_refused():
    (c,) = compared(used({"a": [0.1], "b": [99.0]}))
    assert c.verdict == "one seed" and math.isnan(c.low) and math.isnan(c.p_value)


def test_no_seed_in_common_is_no_pair():
    (c,) = compared(used({"a": [0.1, 0.2, None, None], "b": [None, None, 9, 9]}))
    assert c.verdict == "no pairs" and c.differences == {} and math.isnan(c.difference)


def test_a_group_with_more_failed_runs_is_not_called_better():
    rows = used({"a": noise(9, 0.01), "b": 1 + noise(9, 0.01)})
    assert compared(rows)[0].verdict == "better"
    for group, verdict in (("a", "not separable"), ("b", "better")):
        bad = (pl.col("group") == group) & (pl.col("seed") == 0)
        (c,) = compared(rows.with_columns(failed=bad))
        assert (c.a, c.verdict) == ("a", verdict) and math.isnan(c.low)
        first, second = groups(rows, rows.with_columns(failed=bad), False)
        assert [math.isnan(g.low) for g in (first, second)] == [
            group == "a",
            group == "b",
        ]


@pytest.mark.parametrize("higher,expected", [(False, 4.0), (True, 0.25)])
def test_a_failed_run_counts_as_the_worst_that_a_run_began_or_ended_with(
    higher, expected
):
    metric = "validation/accuracy" if higher else "validation/loss"
    unused = -99.0 if higher else 99.0  # of a setting that isn't chosen
    runs = {
        "a": (run("a"), 4.0, 0.5),
        "b": (run("b", status="failed", optimizer="sgd"), 0.25, 0.5),
        "c": (run("c", rate=0.1), unused, unused),
    }
    records = [
        record._replace(
            rows=[{"step": 1, metric: first}, {"step": 2, metric: last}],
            summary=record.summary | {"final": {metric: last}},
        )
        for record, first, last in runs.values()
    ]
    analysis = analyse(tables(records), "optimizer", metric)
    values = dict(analysis.final.used.select("run", "value").rows())
    assert values == {"a": 0.5, "b": expected}


def test_cells_are_averaged_within_a_seed_and_compared_apart():
    one = used({"a": [1, 2, 3], "b": [2, 3, 4]}, cell="x=1")
    two = used({"a": [5, 5, 5], "b": [8, 8, 8.1]}, cell="x=2")
    extra = used({"a": [100, 100, 100]}, cell="x=3")
    rows = pl.concat([one, two, extra])
    a = groups(rows, rows, False)[0]
    assert a.values == {0: 3, 1: 3.5, 2: 4}  # without the cell that only a has
    in_cells = groups(rows, rows, False, cells=True)
    assert [(g.cell, g.name, g.mean) for g in in_cells[:2]] == [
        ("x=1", "a", 2),
        ("x=1", "b", 3),
    ]
    (c,) = compared(rows)
    assert c.differences == pytest.approx({0: -2, 1: -2, 2: -2.05})
    assert c.probability == pytest.approx((7 / 9 + 1) / 2)  # ties count as half
    first, second, third = compared(rows, cells=True)
    assert (first.cell, first.difference) == ("x=1", -1)
    assert (second.cell, third.verdict) == ("x=2", "no pairs")


def test_all_pairs_are_compared_and_corrected_for_their_number():
    values = {f"g{i}": i + noise(4, 0.1, seed=i) for i in range(12)}
    found = compared(used(values))
    assert len(found) == 12 * 11 // 2
    smallest = min(found, key=lambda c: c.p_value)
    a, b = values[smallest.a], values[smallest.b]
    assert smallest.p_value == pytest.approx(66 * scipy.stats.ttest_rel(a, b).pvalue)


def test_holm():
    # The example of statsmodels and R's p.adjust: sorted, times 3, 2, 1, made monotone.
    assert [*holm([0.01, 0.04, 0.03])] == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.6])[0] == 1.0
    assert math.isnan(holm([0.5, math.nan])[1])
    assert [*holm([])] == []


def test_the_advice_is_the_power_of_a_t_test():
    # G*Power 3.1, one-sample t test, two-sided, d = 0.5, alpha = 0.05, power = 0.8: 34.
    assert seeds_needed(1) == 34
    assert seeds_needed(45) > seeds_needed(10) > 34


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_an_interval_is_that_of_scipy(values):
    found = mean_of(np.array([*values, math.nan]))
    sem = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), sem or 1)
    slack = 1e-9 * max(1, *map(abs, values))
    if sem:
        assert abs(found.low - low) < slack and abs(found.high - high) < slack
    assert 0 <= found.p_value <= 1
