"""A small version of benchmarks/verdicts.py, whose numbers docs/compare.md has."""

import importlib.util
import math
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "verdicts.py"


@pytest.fixture(scope="module")
def simulated():
    spec = importlib.util.spec_from_file_location("simulated", BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def likely(share: float, truth: float, experiments: int) -> bool:
    """Whether `share` is within four standard errors of `truth`, or below it."""
    return share <= truth + 4 * math.sqrt(truth * (1 - truth) / experiments)


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_intervals_cover_normal_and_symmetric_heavy_tailed_data(simulated, seeds):
    for kind in ("normal", "Student's t, 3 degrees"):
        assert min(simulated.coverage(kind, seeds, 20_000)) > 0.935


@pytest.mark.parametrize("count,seeds", [(2, 3), (3, 5), (10, 5)])
def test_equal_groups_are_rarely_told_apart(simulated, count, seeds):
    winner, different = simulated.false_labels("normal", count, seeds, 100)
    assert different == simulated.any_difference("normal", count, seeds, 100)
    assert winner <= different
    assert likely(
        simulated.any_difference("normal", count, seeds, 10_000), 0.05, 10_000
    )


def test_more_tries_do_not_win(simulated):
    assert likely(simulated.false_after_tuning((9, 1), 5, 200), 0.05, 200)


@pytest.mark.nightly
def test_the_advice_followed_separates(simulated):
    share, total = simulated.power(2, 5, 200)
    assert total == 34 and 0.69 < share < 0.91
