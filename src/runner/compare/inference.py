"""Means with their intervals and tests, and the seeds that a test needs."""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

LEVEL = 0.95
POWER = 0.8
EFFECT = 0.5  # standard deviations of the paired differences
SHOWN = "a difference of half a standard deviation in 80 % of cases"  # those two
_MOST_SEEDS = 10_000


class Mean(NamedTuple):
    """Means over the last axis, each with what Student's t says of it; NaN is left out.

    Attributes:
      mean: NaN without a value.
      low, high: the interval of LEVEL; NaN with fewer than two values.
      p_value: of a two-sided test against 0; NaN with fewer than two values.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray


def mean_of(values: np.ndarray) -> Mean:
    """The mean of `values` over the last axis, with its interval and its test."""
    known = np.isfinite(values)
    size = known.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0).sum(-1) / size
        around = np.where(known, values - mean[..., None], 0)
        error = np.sqrt((around**2).sum(-1) / (size - 1) / size)
        p_value = 2 * stdtr(size - 1, -np.abs(mean) / error)
    half = error * stdtrit(np.maximum(size - 1, 1), (1 + LEVEL) / 2)
    p_value = np.where(error == 0, mean == 0, p_value)
    return Mean(mean, mean - half, mean + half, p_value)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Corrected for their number (Holm 1979); NaN stays NaN and doesn't count."""
    corrected = np.array(p_values, float)
    order = corrected.argsort()[: np.count_nonzero(~np.isnan(corrected))]  # NaN is last
    scaled = corrected[order] * np.arange(order.size, 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(scaled, 1))
    return corrected


@cache
def seeds_needed(tests: int) -> int:
    """The seeds with which a paired t test finds a difference of EFFECT, with POWER.

    By the noncentral t distribution, at the level that Holm's correction leaves the
    smallest of `tests` p values. It doesn't depend on the runs: an effect that is
    estimated from a few seeds, and was not separable, would promise too much or too
    little (Hoenig and Heisey, 2001).
    """
    sizes = np.unique(np.geomspace(3, _MOST_SEEDS, 2000).astype(int))
    critical = stdtrit(sizes - 1, 1 - (1 - LEVEL) / 2 / tests)
    power = 1 - nctdtr(sizes - 1, EFFECT * np.sqrt(sizes), critical)
    return int(sizes[np.argmax(power >= POWER)])
