"""Intervals and tests of a mean, and the seeds that a test would need."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import scipy.stats

LEVEL = 0.95
# BCa estimates its corrections from the sample; with fewer seeds they are mere noise.
_BCA_SEEDS = 10
_MOST_SEEDS = 1000


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean; deterministic.

    BCa for ten values or more, percentiles for fewer; NaN for fewer than two.
    """
    values = np.asarray(values, float)
    if values.size < 2:
        return math.nan, math.nan
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return float(values.min()), float(values.max())
    low = high = math.nan
    with warnings.catch_warnings():  # BCa warns about nearly equal values
        warnings.simplefilter("ignore")
        for method in ("BCa", "percentile")[values.size < _BCA_SEEDS :]:
            low, high = scipy.stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
            if math.isfinite(low) and math.isfinite(high):
                break
    return float(low), float(high)


def p_value(differences: Sequence[float]) -> float:
    """The p value of a paired t test against 0; NaN for fewer than two values."""
    values = np.asarray(differences)
    if values.size < 2:
        return math.nan
    error = values.std(ddof=1) / math.sqrt(values.size)
    if error == 0:
        return float(values[0] == 0)
    return float(2 * scipy.stats.t.sf(abs(values.mean()) / error, values.size - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number (Holm 1979); NaN stays NaN and doesn't count."""
    corrected = np.array(p_values, float)
    order = corrected.argsort()[: np.count_nonzero(~np.isnan(corrected))]  # NaN is last
    scaled = corrected[order] * np.arange(order.size, 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(scaled, 1))
    return corrected.tolist()


def more_seeds(differences: np.ndarray, tests: int = 1) -> int:
    """How many more seeds would separate these two with a power of 80 %.

    The total is the smallest n with n >= ((t_1 + t_2) * s / d)**2, for differences with
    mean d and standard deviation s; t_1 and t_2 are quantiles of Student's t with n - 1
    degrees of freedom at 1 - 0.025 / tests and 0.8. At least 1; 1001 stands for more
    than 1000.
    """
    sizes = differences.size + np.arange(1, _MOST_SEEDS + 1)
    level = 1 - (1 - LEVEL) / 2 / tests
    t = scipy.stats.t.ppf([[level], [0.8]], sizes - 1).sum(0)
    needed = t * differences.std(ddof=1)
    enough = np.sqrt(sizes) * abs(differences.mean()) >= needed
    return int(enough.argmax()) + 1 if enough.any() else _MOST_SEEDS + 1
