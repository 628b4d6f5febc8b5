import math

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.compare.inference import holm, interval, more_seeds, p_value
from runner.compare.statistics import compare, groups


def used(values, cell="", setting=""):
    """{group: values by seed} as rows."""
    rows = [
        {"run": f"{g}{s}", "group": g, "cell": cell, "setting": setting}
        | {"seed": s, "value": float(v)}
        for g, by_seed in values.items()
        for s, v in enumerate(by_seed)
        if v is not None
    ]
    return pl.DataFrame(rows)


def compared(rows, higher=False, cells=False):
    return compare(rows, groups(rows, higher), higher, cells)


def noise(seeds, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(seeds)


def test_a_paired_difference_is_found_below_the_noise_of_the_seeds():
    shared, own = noise(10, 1.0), noise(10, 0.02, seed=1)
    rows = used({"adam": 0.3 + shared, "sgd": 0.4 + shared + own})
    first, second = groups(rows, False)
    assert (first.name, second.name) == ("adam", "sgd")
    assert first.low < second.mean < first.high  # unpaired they overlap
    (c,) = compared(rows)
    assert (c.a, c.b, c.verdict, c.more_seeds) == ("adam", "sgd", "better", None)
    assert c.difference == pytest.approx(-0.1 - own.mean())
    assert c.low < c.difference < c.high < 0
    assert c.improvement == 1
    # A t interval of such data is much the same.
    t = scipy.stats.t.interval(0.95, 9, -0.1 - own.mean(), scipy.stats.sem(own))
    assert c.low == pytest.approx(t[0], abs=0.005)
    assert c.high == pytest.approx(t[1], abs=0.005)
    assert c.p_value == pytest.approx(scipy.stats.ttest_1samp(-0.1 - own, 0).pvalue)


def test_higher_is_better_turns_it_round():
    rows = used({"adam": [0.9, 0.91, 0.92], "sgd": [0.5, 0.52, 0.51]})
    assert [g.name for g in groups(rows, True)] == ["adam", "sgd"]
    (c,) = compared(rows, higher=True)
    assert (c.a, c.verdict, c.improvement) == ("adam", "better", 1)


def test_identical_groups_agree_and_rounding_does_not_rank():
    values = 1 + noise(5, 0.1)
    (c,) = compared(used({"jax": values, "nnx": values}))
    assert c.verdict == "agree" and c.improvement == 0.5 and c.p_value == 1
    (c,) = compared(used({"jax": values, "nnx": values * (1 + 1e-6)}))
    assert c.verdict == "agree"  # though each seed says the same
    (c,) = compared(used({"jax": values, "nnx": values * (1 + 1e-3)}))
    assert c.verdict == "better"


def test_noise_is_not_separable():
    rows = used({"a": noise(8, seed=3), "b": noise(8, seed=4)})
    (c,) = compared(rows)
    assert c.verdict == "not separable" and c.low < 0 < c.high
    assert c.more_seeds > 8


def test_one_seed_is_refused():
    (c,) = compared(used({"a": [0.1], "b": [99.0]}))
    assert c.verdict == "one seed" and math.isnan(c.low) and math.isnan(c.p_value)


def test_no_seed_in_common_is_no_pair():
    (c,) = compared(used({"a": [0.1, 0.2, None, None], "b": [None, None, 9, 9]}))
    assert c.verdict == "no pairs" and c.differences == {} and math.isnan(c.difference)


def test_three_lucky_seeds_do_not_rank_nothing():
    # The bootstrap alone would call a quarter of these different.
    ranked = 0
    for seed in range(200):
        rows = used({"a": noise(3, seed=seed), "b": noise(3, seed=1000 + seed)})
        ranked += compared(rows)[0].verdict != "not separable"
    assert ranked <= 20


def test_what_diverged_cannot_be_called_better():
    rows = used({"a": [0.1, 0.11, 0.12, math.inf], "b": [0.5, 0.52, 0.51, 0.5]})
    (c,) = compared(rows)
    assert (c.a, c.verdict, len(c.differences)) == ("a", "not separable", 3)
    assert groups(rows, False)[0].diverged == 1
    rows = used({"a": [0.1, 0.11, 0.12, 0.1], "b": [0.5, 0.52, 0.51, math.nan]})
    assert compared(rows)[0].verdict == "better"
    rows = used({"a": [0.1, 0.11], "b": [math.nan, math.nan]})
    assert [g.name for g in groups(rows, False)] == ["a", "b"]
    assert compared(rows)[0].verdict == "no pairs"


def test_cells_are_averaged_within_a_seed_and_compared_apart():
    one = used({"a": [1, 2, 3], "b": [2, 3, 4]}, cell="x=1")
    two = used({"a": [5, 5, 5], "b": [8, 8, 8.1]}, cell="x=2")
    extra = used({"a": [100, 100, 100]}, cell="x=3")
    rows = pl.concat([one, two, extra])
    a = groups(rows, False)[0]
    assert a.values == {0: 3, 1: 3.5, 2: 4}  # without the cell that only a has
    (c,) = compared(rows)
    assert c.differences == pytest.approx({0: -2, 1: -2, 2: -2.05})
    first, second, third = compared(rows, cells=True)
    assert (first.cell, first.difference) == ("x=1", -1)
    assert (second.cell, third.verdict) == ("x=2", "no pairs")


def test_many_groups_are_compared_with_the_best_alone():
    rows = used({f"g{i}": i + noise(3, 0.01, seed=i) for i in range(12)})
    found = compared(rows)
    assert len(found) == 11 and {c.a for c in found} == {"g0"}
    assert all(c.verdict == "better" for c in found)


def test_holm():
    # The example of statsmodels and R's p.adjust: sorted, times 3, 2, 1, made monotone.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.6])[0] == 1.0
    assert math.isnan(holm([0.5, math.nan])[1])
    assert holm([]) == []


def test_more_seeds_is_where_a_t_test_has_its_power():
    differences = np.array([1.0, -1.0, 2.0, 0.0])  # mean 0.5, deviation 1.29
    n = more_seeds(differences) + 4
    # By the exact power of a t test, from the noncentral t distribution.
    size = 0.5 / differences.std(ddof=1) * math.sqrt(n)
    critical = scipy.stats.t.ppf(0.975, n - 1)
    assert scipy.stats.nct.sf(critical, n - 1, size) == pytest.approx(0.8, abs=0.01)
    assert more_seeds(differences, tests=10) > more_seeds(differences)
    assert more_seeds(np.array([1.0, -1.0])) == 1001
    assert more_seeds(np.array([1.0, 1.001])) == 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_an_interval_holds_between_the_extremes(values):
    low, high = interval(values)
    slack = 1e-9 * max(1, *map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack
    assert interval(values) == (low, high)
    assert 0 <= p_value(values) <= 1
