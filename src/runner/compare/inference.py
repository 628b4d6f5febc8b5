"""What a sample of differences says about their mean."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import scipy.stats

LEVEL = 0.95
# BCa estimates its corrections from the sample; below this they are noise themselves.
_BCA_SEEDS = 10
_MOST_SEEDS = 1000


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean, the same on every call.

    BCa from ten values on, percentiles below; NaN for fewer than two.
    """
    values = np.asarray(values, float)
    if values.size < 2:
        return math.nan, math.nan
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return float(values.min()), float(values.max())
    low = high = math.nan
    with warnings.catch_warnings():  # of BCa on nearly equal values, handled below
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
    """Of a paired t test against 0; NaN for fewer than two."""
    values = np.asarray(differences)
    if values.size < 2:
        return math.nan
    error = values.std(ddof=1) / math.sqrt(values.size)
    if error == 0:
        return float(values[0] == 0)
    return float(2 * scipy.stats.t.sf(abs(values.mean()) / error, values.size - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for how many there are (Holm 1979); NaN stays and doesn't count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = list(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[index] = largest
    return corrected


def more_seeds(differences: np.ndarray, tests: int = 1) -> int:
    """How many more seeds would separate these two with a power of 80 %.

    The smallest n seeds in all with n >= ((t_1 + t_2) * s / d)**2, for a difference of
    mean d and standard deviation s; t_1 and t_2 are quantiles of Student's t with n - 1
    degrees of freedom at 1 - 0.025 / tests and 0.8. At least one more than there are,
    and 1001 beyond 1000.
    """
    sizes = differences.size + np.arange(1, _MOST_SEEDS + 1)
    level = 1 - (1 - LEVEL) / 2 / tests
    t = scipy.stats.t.ppf([[level], [0.8]], sizes - 1).sum(0)
    needed = t * differences.std(ddof=1)
    enough = np.sqrt(sizes) * abs(differences.mean()) >= needed
    return int(enough.argmax()) + 1 if enough.any() else _MOST_SEEDS + 1
