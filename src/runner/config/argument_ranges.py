"""The ranges of arguments that optax's and our own functions take without a check."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from runner.errors import ConfigError


class Range(NamedTuple):
    """The values that an argument may have, and the rule in words."""

    valid: Callable[[Any], bool]
    rule: str


_AVERAGE = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")
_FRACTION = Range(lambda x: 0 <= x <= 1, "from 0 to 1")
_POSITIVE = Range(lambda x: 0 < x < math.inf, "greater than 0")
_NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "at least 0 and finite")
_COUNT = Range(lambda x: x >= 1, "at least 1")
_NUMBER = Range(lambda x: math.isfinite(x), "a finite number")
_SEED = Range(lambda x: 0 <= x < 2**32, "from 0 to 2**32 - 1")
_MASK = Range(
    lambda x: isinstance(x, bool), "true, false, null or a function by its _target_"
)
_FLOAT_TYPE = Range(
    lambda x: not re.match("u?int|bool|complex", str(x)),
    "a type of floating-point numbers, such as bfloat16, or null",
)

# By group: the ranges of arguments, by the names that optax gives them.
RANGES: dict[str, dict[str, Range]] = {
    "optimizer": {
        **dict.fromkeys(
            ("b1", "b2", "b3", "beta", "beta3", "betas", "adam_b1", "adam_b2", "decay",
             "momentum"),
            _AVERAGE,
        ),
        **dict.fromkeys(
            ("eps", "eps_root", "adam_eps_root", "weight_decay", "adam_weight_decay",
             "weight_decay_rate", "alpha", "rho", "eta", "gamma", "min_norm",
             "initial_scale", "initial_accumulator_value", "threshold",
             "min_step_size", "decay_rate", "weight_lr_power"),
            _NOT_NEGATIVE,
        ),
        **dict.fromkeys(
            ("estim_lr0", "estim_lr_coef", "clip_threshold", "clipping_threshold",
             "trust_coefficient", "scaling", "scale", "max_step_size"),
            _POSITIVE,
        ),
        **dict.fromkeys(
            ("ns_steps", "rank", "update_proj_gap", "memory_size", "update_interval",
             "max_linesearch_steps", "min_dim_size_to_factor"),
            _COUNT,
        ),
        **dict.fromkeys(("warmup_steps", "decay_offset"), _NOT_NEGATIVE),
        **dict.fromkeys(("mask", "weight_decay_mask", "trust_ratio_mask"), _MASK),
        **dict.fromkeys(("mu_dtype", "accumulator_dtype", "state_dtype"), _FLOAT_TYPE),
        **dict.fromkeys(("ns_coeffs", "lower_bound", "f_min"), _NUMBER),
        "eta_minus": Range(lambda x: 0 < x < 1, "between 0 and 1"),
        "eta_plus": Range(lambda x: 1 < x < math.inf, "greater than 1"),
        "key": _SEED,
    },
    "schedule": {
        **dict.fromkeys(("pct_start", "pct_final", "min_scale"), _FRACTION),
        **dict.fromkeys(
            ("power", "exponent", "div_factor", "final_div_factor", "peak_decay"),
            _POSITIVE,
        ),
        **dict.fromkeys(("decay_steps", "transition_begin", "alpha"), _NOT_NEGATIVE),
        "transition_steps": _COUNT,
    },
    "model": {"norm_momentum": _AVERAGE},
    "callbacks": {
        **dict.fromkeys(("examples", "samples", "prompt", "length"), _COUNT),
        "temperature": _NOT_NEGATIVE,
    },
    "data": {
        **dict.fromkeys(("noise", "device_limit_mb", "memory_limit_mb"), _NOT_NEGATIVE),
        "data_seed": _SEED,
    },
}  # fmt: skip
# Those of functions that mean something else by the name.
_OWN = {
    ("optax.adadelta", "rho"): _AVERAGE,
    ("optax.adafactor", "decay_rate"): _AVERAGE,
    ("optax.optimistic_adam_v2", "beta"): _NUMBER,
    ("optax.optimistic_gradient_descent", "beta"): _NUMBER,
}


def check_argument(key: str, function: str, value: Any) -> None:
    """Refuse a plain `value` of the argument `key` of `function` if it is out of range.

    Raises:
      ConfigError: names the key, the value and the rule.
    """
    group, name = key.partition(".")[0], key.rpartition(".")[2]
    found = _OWN.get((function, name)) or RANGES.get(group, {}).get(name)
    if found is None:
        return
    for part in _parts(value):
        try:
            is_valid = found.valid(part)
        except TypeError:  # text, where a function has no annotations
            is_valid = False
        if not is_valid:
            each = ", each item" if isinstance(value, list) else ""
            raise ConfigError(f"{key}={value} must be{each} {found.rule}")


def _parts(value: Any) -> Iterator[Any]:
    """The numbers in `value`, or itself; nothing of null, and of what is nested."""
    if isinstance(value, list):
        for item in value:
            yield from _parts(item)
    elif value is not None and not isinstance(value, dict):
        yield value
