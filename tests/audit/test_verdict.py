"""Verdicts and explanations, from numbers alone."""

import math

import numpy as np
import pytest
import scipy.stats

from runner.audit.table import Candidate, Cell
from runner.audit.verdict import explain, half_width, judge

OURS = (1.0, 1.2, 1.4, 0.9, 1.1)


def cell(mean=1.0, std: float | None = 0.1, n=8, name="a") -> Cell:
    return Cell(name, "cells[0]", (), "validation/loss", None, None, mean, std, n)


def test_the_interval_is_welchs():
    theirs = np.array([0.5, 0.7, 0.2, 0.9, 0.8, 0.4])
    test = scipy.stats.ttest_ind(OURS, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    half = half_width(np.std(OURS, ddof=1), 5, theirs.std(ddof=1), 6, cells=1)
    assert half == pytest.approx((high - low) / 2)
    low, high = test.confidence_interval(0.99)  # 5 % over five of them
    half = half_width(np.std(OURS, ddof=1), 5, theirs.std(ddof=1), 6, cells=5)
    assert half == pytest.approx((high - low) / 2)


def test_a_single_run_is_taken_for_one_of_the_others():
    quantile = scipy.stats.t.ppf(0.975, 9)
    expected = quantile * 0.3 * math.sqrt(1 + 1 / 10)
    assert half_width(math.nan, 1, 0.3, 10, 1) == pytest.approx(expected)
    assert half_width(0.3, 10, None, 1, 1) == pytest.approx(expected)
    assert math.isnan(half_width(math.nan, 1, None, 1, 1))


@pytest.mark.parametrize(
    ("published", "found", "outcome", "why"),
    [
        (cell(1.1), OURS, "reproduced", ""),
        (cell(2.0), OURS, "differs", ""),
        (cell(0.85, 0.006, 10), [0.25, 0.47], "differs", ""),  # two say little
        (cell(0.85, 0.006, 10), [0.86, 0.85], "reproduced", ""),
        (
            cell(1.0, 0.05, 3),
            OURS,
            "reproduced",
            "",
        ),  # of three
        (cell(1.0, 0.02), OURS, "undecided", "is 12 published standard deviations"),
        (cell(1.0, 0.0), [1.00005] * 3, "reproduced", ""),  # but for rounding
        (cell(1.0, 0.0), [1.001] * 3, "differs", ""),
        (cell(1.0, None, 1), [1.5], "undecided", "give more seeds"),
        (cell(), ["killed", 1.0], "not run", "1 of 2 runs failed: killed"),
        (cell(), [math.nan, 1.0], "not run", "not finite"),
    ],
)
def test_each_verdict(published, found, outcome, why):
    verdict = judge(published, 7, found, 1)
    assert verdict.outcome == outcome and why in verdict.why
    if outcome == "differs":
        assert (verdict.low > 0) == (verdict.difference > 0)
        assert verdict.high - verdict.low > 0 or published.std == 0


def test_what_brings_the_means_nearer_explains_and_noise_does_not():
    def verdicts(*means, std=0.1):
        spread = np.array([-1, 0, 1]) * std
        return [
            judge(cell(1.0, name=str(i)), 1, list(mean + spread), len(means))
            for i, mean in enumerate(means)
        ]

    factors = {
        "cause": verdicts(1.01, 1.0),
        "noise": verdicts(2.0, 1.0, std=50.0),  # all is within so wide an interval
        "other": verdicts(2.0, 9.0),
        "broken": verdicts(1.0, math.nan),
    }
    named = {Candidate(k, "", (), frozenset()): v for k, v in factors.items()}
    base = verdicts(2.0, 1.0)
    assert [v.outcome for v in base] == ["differs", "reproduced"]
    first, *others = found = explain(base, named)
    assert first.candidate.factor == "cause" and first.explained > 0.99
    assert first.reproduced == 2
    by_name = {e.candidate.factor: e for e in found}
    assert by_name["noise"].explained == pytest.approx(0)
    assert by_name["other"].explained < 0
    assert by_name["broken"].explained == -math.inf and by_name["broken"].why
    assert others[-1].candidate.factor == "broken"


def test_a_cell_that_never_ran_explains_nothing():
    def verdicts(first, second):
        return [
            judge(cell(name=str(i)), 1, v, 2) for i, v in enumerate((first, second))
        ]

    far, near = [2.0, 2.1, 2.2], [0.95, 1.0, 1.05]
    broken = ["killed"] * 3
    base = verdicts(broken, far)
    factors = {"only makes it run": verdicts([9.0] * 3, far),
               "cause": verdicts(broken, near)}  # fmt: skip
    named = {Candidate(k, "", (), frozenset()): v for k, v in factors.items()}
    cause, other = explain(base, named)
    assert cause.candidate.factor == "cause" and cause.explained > 0.99
    assert not cause.why and other.explained == pytest.approx(0)


def test_a_published_zero_has_a_unit():
    base = [judge(cell(0.0, 0.0), 1, [0.5] * 3, 1)]
    named = {
        Candidate("cause", "", (), frozenset()): [
            judge(cell(0.0, 0.0), 1, [0.0] * 3, 1)
        ]
    }
    (found,) = explain(base, named)
    assert found.explained == 1
