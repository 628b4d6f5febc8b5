"""Learning-rate schedules: a table of one float32 a step, and the plateau rule.

A schedule is any function of the step, such as optax's. It is evaluated up front
because Python `if`s on floats make many schedules untraceable, and because a table
is an argument of the compiled step where a function would be a constant of it.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import ReduceLROnPlateauState

from runner.errors import ConfigError, InPart, what_is

Schedule = Callable[[Any], Any]


class ReduceOnPlateau(NamedTuple):
    """A schedule whose learning rates a transformation scales depending on the loss.

    `transformation` goes after the optimizer. It reads the training loss from the
    extra argument `value`, or the evaluation's from `eval_loss` (inf: no new one).
    It scales after `patience` windows of `accumulation_size` losses.
    """

    base: Schedule
    transformation: optax.GradientTransformationExtraArgs
    patience: int
    accumulation_size: int
    watch: Literal["train", "validation"]


def table(schedule: Schedule, steps: int) -> np.ndarray:
    """The learning rates of steps 0 to `steps` - 1: float32 [steps]."""
    if not callable(schedule):
        raise ConfigError(
            f"schedule: its function returned {what_is(schedule)}, and must return a "
            "function from a step to a learning rate"
        )
    with InPart("schedule"):
        try:
            # Not jitted: compiling takes ten times as long as these few operations.
            rates = jax.vmap(schedule)(np.arange(steps))
        except (  # a schedule of plain Python `if`s, of NumPy, or of a list
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ):
            rates = [schedule(step) for step in range(steps)]
        rates = np.asarray(rates, np.float32)
    if rates.shape != (steps,):
        given = f"shape {rates.shape[1:]}" if rates.ndim else "nothing"
        raise ConfigError(
            f"schedule: of a step it gives {given}, and must give a number, shape ()"
        )
    bad = np.flatnonzero(~np.isfinite(rates) | (rates < 0))
    if bad.size:
        raise ConfigError(
            f"the schedule's learning rate is {rates[bad[0]]} at step {bad[0]}; it "
            "must be finite and not negative"
        )
    if not rates.any():
        raise ConfigError(
            f"the schedule's learning rate is 0 at all of the run's {steps} steps, so "
            "nothing would be learned: optimizer.learning_rate must be above 0, and a "
            "warm-up must end before the run does"
        )
    return rates


def piecewise_constant(
    init_value: float, boundaries: Sequence[int], scales: Sequence[float]
) -> Schedule:
    """`init_value`, multiplied by `scales[i]` from step `boundaries[i]` on."""
    if len(boundaries) != len(scales):
        raise ConfigError(
            f"schedule.boundaries={list(boundaries)} must be as long as "
            f"schedule.scales={list(scales)}"
        )
    if list(boundaries) != sorted(set(boundaries)) or min(boundaries, default=0) < 0:
        raise ConfigError(
            f"schedule.boundaries={list(boundaries)} must be strictly increasing, and "
            "none negative"
        )
    scale_at = dict(zip(boundaries, scales, strict=True))
    return optax.piecewise_constant_schedule(init_value, scale_at)


def warmup_constant(
    init_value: float, peak_value: float, warmup_steps: int
) -> Schedule:
    """Linear warm-up to `peak_value`; without a step of it, `peak_value` at once.

    optax's own stays at `init_value` then.
    """
    if warmup_steps == 0:
        return optax.constant_schedule(peak_value)
    return optax.warmup_constant_schedule(init_value, peak_value, warmup_steps)


def sgdr(
    peak_value: float,
    steps: int,
    cycles: int,
    cycle_growth: float,
    peak_decay: float,
    warmup_steps: int,
    end_value: float,
) -> Schedule:
    """Cosine decay with warm restarts (Loshchilov and Hutter, 2016).

    `cycles` cycles fill `steps` steps; each is `cycle_growth` times as long as the one
    before and starts, after `warmup_steps` steps, at `peak_decay` times its peak.
    """
    if cycles < 1 or cycle_growth <= 0:
        raise ConfigError(
            f"schedule.cycles={cycles} must be at least 1 and "
            f"schedule.cycle_growth={cycle_growth} positive"
        )
    weights = np.cumsum([cycle_growth**i for i in range(cycles)])
    ends = np.rint(steps * weights / weights[-1]).astype(int)
    lengths = np.diff(ends, prepend=0)
    if lengths.min() <= warmup_steps:
        raise ConfigError(
            f"schedule.cycles={cycles} over {steps} steps leaves a cycle of "
            f"{lengths.min()} steps, which must be longer than "
            f"schedule.warmup_steps={warmup_steps}"
        )
    peaks = accumulate([peak_value] + [peak_decay] * (cycles - 1), lambda a, b: a * b)
    return optax.sgdr_schedule(
        [
            {
                "init_value": end_value if warmup_steps else peak,
                "peak_value": peak,
                "warmup_steps": warmup_steps,
                "decay_steps": int(length),
                "end_value": end_value,
            }
            for peak, length in zip(peaks, lengths, strict=True)
        ]
    )


def warmup_stable_decay(
    peak_value: float,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    init_value: float,
    end_value: float,
) -> Schedule:
    """Linear warm-up, a plateau, and a linear decay in the last `decay_steps` steps."""
    if warmup_steps + decay_steps > steps:
        raise ConfigError(
            f"schedule.warmup_steps={warmup_steps} plus schedule.decay_steps="
            f"{decay_steps} must not be more than the run's {steps} steps"
        )
    warmup = warmup_constant(init_value, peak_value, warmup_steps)
    decay = optax.linear_schedule(peak_value, end_value, decay_steps)
    return optax.join_schedules([warmup, decay], [steps - decay_steps])


def inverse_sqrt(peak_value: float, warmup_steps: int, init_value: float) -> Schedule:
    """Linear warm-up to `peak_value`, then decay with 1 / sqrt(step).

    Vaswani et al., 2017: `peak_value` is reached at step `warmup_steps`.
    """
    start = max(warmup_steps, 1)
    warmup = optax.linear_schedule(init_value, peak_value, start)

    def schedule(step):
        decayed = peak_value * jnp.sqrt(start / jnp.maximum(step, start))
        return jnp.where(step < warmup_steps, warmup(step), decayed)

    return schedule


def reduce_on_plateau(
    base: Schedule,
    watch: Literal["train", "validation"],
    unit: Literal["steps", "epochs"],
    patience: int,
    cooldown: int,
    factor: float,
    rtol: float,
    atol: float,
    min_scale: float,
    steps_per_epoch: int,
    eval_every_steps: int,
) -> ReduceOnPlateau:
    """Scale `base` by `factor` each time the loss stops improving for `patience` units.

    The rule is `optax.contrib.reduce_on_plateau`, whose patience counts windows of
    `accumulation_size` values: a window here is one step or one epoch of training
    losses (their mean), or one evaluation. A loss has improved if it is below the best
    by more than `rtol` times the best's distance from zero, plus `atol`.
    """
    for key, value, allowed in (
        ("watch", watch, ("train", "validation")),
        ("unit", unit, ("steps", "epochs")),
    ):
        if value not in allowed:
            raise ConfigError(f"schedule.{key}={value} must be one of {allowed}")
    if patience < 1 or cooldown < 0:
        raise ConfigError(
            f"schedule.patience={patience} must be at least 1 and "
            f"schedule.cooldown={cooldown} not negative"
        )
    unit_steps = steps_per_epoch if unit == "epochs" else 1
    if watch == "train":
        windows, accumulation_size = (patience, cooldown), unit_steps
    else:
        windows = tuple(
            _evaluations(key, count, unit, unit_steps, eval_every_steps)
            for key, count in (("patience", patience), ("cooldown", cooldown))
        )
        accumulation_size = 1
    rule = optax.contrib.reduce_on_plateau(
        factor=factor,
        patience=windows[0],
        rtol=rtol,
        atol=atol,
        cooldown=windows[1],
        accumulation_size=accumulation_size,
        min_scale=min_scale,
    )
    rule = _by_distance(rule, rtol, atol)
    return ReduceOnPlateau(
        base,
        rule if watch == "train" else _on_new_eval_loss(rule),
        windows[0],
        accumulation_size,
        watch,
    )


def plateau_scale(opt_state: Any) -> Any:
    """The current scale of reduce_on_plateau in `opt_state`; 1 without it."""
    for state in states_of(ReduceLROnPlateauState, opt_state):
        return state.scale
    return jnp.float32(1)


def states_of(kind: type, opt_state: Any) -> list[Any]:
    """The states of type `kind` within an optimizer's, in order."""

    def is_one(node: Any) -> bool:
        return isinstance(node, kind)

    return [s for s in jax.tree.leaves(opt_state, is_leaf=is_one) if is_one(s)]


def _evaluations(
    key: str, count: int, unit: str, unit_steps: int, eval_every_steps: int
) -> int:
    evaluations, rest = divmod(count * unit_steps, eval_every_steps)
    if rest:
        raise ConfigError(
            f"schedule.{key}={count} {unit} with schedule.watch=validation must be a "
            f"whole number of evaluations; there is one every train.eval_every_steps="
            f"{eval_every_steps} steps"
        )
    return evaluations


def _by_distance(
    rule: optax.GradientTransformationExtraArgs, rtol: float, atol: float
) -> optax.GradientTransformationExtraArgs:
    """`rule`, with a limit that is below the best loss also where that is below zero.

    optax's own is `(1 - rtol) * best - atol`, so there any loss improves (optax #1767).
    """

    def update(updates, state, params=None, *, value, **extra):
        del params, extra
        best = state.best_value
        shift = jnp.where(best < 0, -2 * rtol * best, 0)
        new: Any
        updates, new = rule.update(updates, state, value=value + shift)
        mean = (state.count * state.avg_value + value + shift) / (state.count + 1)
        improved = (new.count == 0) & (mean < (1 - rtol) * best - atol)
        own = jnp.where(improved & (best < 0), mean - shift, new.best_value)
        return updates, new._replace(best_value=own.astype(best.dtype))

    return optax.GradientTransformationExtraArgs(
        rule.init,
        update,  # pyright: ignore[reportArgumentType]
    )


def _on_new_eval_loss(
    rule: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """`rule`, fed only at the steps at which `eval_loss` is finite."""

    def update(updates, state, params=None, *, eval_loss, **extra):
        del params, extra
        _, fed = rule.update(updates, state, value=eval_loss)
        fresh = jnp.isfinite(eval_loss)
        state = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), fed, state)
        return jax.tree.map(lambda u: state.scale * u, updates), state

    return optax.GradientTransformationExtraArgs(
        rule.init,
        update,  # pyright: ignore[reportArgumentType]
    )
