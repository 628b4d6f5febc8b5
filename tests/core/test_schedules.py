"""Every schedule YAML against a closed form written in NumPy, apart from optax."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.at_night import one_in
from runner.config.conf import conf_dir
from runner.config.instantiate import call
from runner.config.lengths import check_lengths
from runner.core import schedules
from runner.errors import ConfigError

STEPS, RATE = 200, 0.01
WARMUP = 20  # a tenth of the steps
k = np.arange(STEPS, dtype=np.float64)


def cosine(step, length, first=RATE, last=0.0):
    x = np.clip(step / length, 0, 1)
    return last + (first - last) * 0.5 * (1 + np.cos(np.pi * x))


def line(step, start, end, first, last):
    return first + (last - first) * np.clip((step - start) / (end - start), 0, 1)


def sgdr():
    ends = [round(STEPS / 7), round(STEPS * 3 / 7), STEPS]
    rates = np.empty(STEPS)
    for start, end in zip([0, *ends], ends, strict=False):
        rates[start:end] = cosine(np.arange(end - start), end - start)
    return rates


CLOSED_FORMS = {
    "constant": np.full(STEPS, RATE),
    "linear": RATE * (1 - k / STEPS),
    "cosine": cosine(k, STEPS),
    "exponential": RATE * 0.01 ** (k / STEPS),
    "polynomial": RATE * (1 - k / STEPS) ** 2,
    "piecewise_constant": RATE * 0.1 ** ((k >= 100).astype(int) + (k >= 150)),
    "warmup_constant": RATE * np.minimum(k / WARMUP, 1),
    "warmup_cosine": np.where(
        k < WARMUP, RATE * k / WARMUP, cosine(k - WARMUP, STEPS - WARMUP)
    ),
    "warmup_exponential": np.where(
        k < WARMUP, RATE * k / WARMUP, RATE * 0.01 ** ((k - WARMUP) / STEPS)
    ),
    "cosine_onecycle": np.where(
        k < 60,
        cosine(k, 60, RATE / 25, RATE),
        cosine(k - 60, 140, RATE, RATE / 25 / 1e4),
    ),
    "linear_onecycle": np.where(
        k < 60,
        line(k, 0, 60, RATE / 25, RATE),
        np.where(
            k < 170,
            line(k, 60, 170, RATE, RATE / 25),
            line(k, 170, 200, RATE / 25, RATE / 25 / 1e4),
        ),
    ),
    "sgdr": sgdr(),
    "warmup_stable_decay": np.minimum(
        RATE * np.minimum(k / WARMUP, 1), line(k, 160, 200, RATE, 0)
    ),
    "inverse_sqrt": RATE
    * np.where(k < WARMUP, k / WARMUP, np.sqrt(WARMUP / np.maximum(k, WARMUP))),
    "reduce_on_plateau": np.full(STEPS, RATE),
}


def test_every_schedule_has_a_closed_form_here():
    names = {path.stem for path in (conf_dir() / "schedule").glob("*.yaml")}
    assert names == set(CLOSED_FORMS)


def asked(name):
    """A run with the schedule `name`."""
    return (
        f"schedule={name}", "schedule.patience=1000" if "plateau" in name else "seed=0",
        f"train.steps={STEPS}", "train.epochs=null", "train.log_every_steps=1",
        f"optimizer.learning_rate={RATE}", "train.eval_every_steps=200",
        "model.hidden_sizes=[8]",
    )  # fmt: skip


CLOSE = {"rtol": 1e-5, "atol": RATE * 1e-6}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_rates_of_the_steps_equal_the_closed_form(name, assembled):
    run = assembled(*asked(name))
    assert run.learning_rates.dtype == np.float32
    np.testing.assert_allclose(run.learning_rates, CLOSED_FORMS[name], **CLOSE)


@pytest.mark.parametrize("name", one_in(7, list(CLOSED_FORMS)))
def test_the_rates_of_the_steps_are_logged(name, trained):
    """The row of a step has the schedule at that step minus one."""
    rows = trained(*asked(name))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    logged = [row["train/learning_rate"] for row in rows]
    np.testing.assert_allclose(logged, CLOSED_FORMS[name], **CLOSE)


@pytest.mark.parametrize("name", ["constant", "cosine", "exponential", "stable_decay"])
def test_without_a_warm_up_the_first_rate_is_the_peak(name, built):
    run = built(f"schedule=warmup_{name}", "schedule.warmup_steps=0")
    assert run.learning_rates[0] == np.float32(0.001)


STEP = "train.epochs=null train.steps="
ZERO = "learning rate is 0 at all of the run's"
# At the edges of each: the rates over the peak, or what the refusal says.
EDGES = {
    f"constant {STEP}1": [1],
    f"cosine {STEP}1": [1],
    f"linear {STEP}1": [1],
    f"polynomial {STEP}1": [1],
    f"exponential {STEP}1": [1],
    f"cosine_onecycle {STEP}1": [1],
    f"linear_onecycle {STEP}1": "must leave a step",
    f"linear_onecycle {STEP}2": [1, 0.04],
    f"piecewise_constant {STEP}1": "must be strictly increasing",
    f"piecewise_constant {STEP}2 schedule.boundaries=[0,1]": [0.1, 0.01],
    f"piecewise_constant {STEP}2 schedule.boundaries=[1,2]": [1, 0.1],
    f"piecewise_constant {STEP}2 schedule.boundaries=[-1,2]": "none negative",
    f"sgdr {STEP}1": "leaves a cycle of 0 steps",
    f"sgdr {STEP}1 schedule.cycles=1": [1],
    f"sgdr {STEP}2 schedule.cycles=1 schedule.warmup_steps=1": [0, 1],
    f"sgdr {STEP}2 schedule.cycles=1 schedule.warmup_steps=2": "must be longer than",
    f"reduce_on_plateau {STEP}1": [1],
    f"warmup_constant {STEP}1": ZERO,
    f"warmup_constant {STEP}1 schedule.warmup_steps=0": [1],
    f"warmup_constant {STEP}2 schedule.warmup_steps=1": [0, 1],
    f"warmup_constant {STEP}2 schedule.warmup_steps=2": [0, 0.5],
    f"warmup_constant {STEP}2 schedule.warmup_steps=3": "is longer than the run",
    f"warmup_cosine {STEP}1": "must be less than schedule.decay_steps=1",
    f"warmup_cosine {STEP}1 schedule.warmup_steps=0": [1],
    f"warmup_cosine {STEP}2 schedule.warmup_steps=1": [0, 1],
    f"warmup_cosine {STEP}2 schedule.warmup_steps=2": "must be less than schedule.dec",
    f"warmup_exponential {STEP}1": ZERO,
    f"warmup_exponential {STEP}1 schedule.warmup_steps=0": [1],
    f"warmup_exponential {STEP}2 schedule.warmup_steps=2": [0, 0.5],
    f"inverse_sqrt {STEP}1": ZERO,
    f"inverse_sqrt {STEP}2 schedule.warmup_steps=0": [1, 1],
    f"inverse_sqrt {STEP}2 schedule.warmup_steps=2": [0, 0.5],
    f"warmup_stable_decay {STEP}1": "must not be more than the run's 1 steps",
    f"warmup_stable_decay {STEP}2": [0, 1],
    f"warmup_stable_decay {STEP}2 schedule.warmup_steps=0": [1, 1],
    f"warmup_stable_decay {STEP}2 schedule.warmup_steps=0 schedule.decay_steps=2": [
        1, 0.5,
    ],
    f"warmup_stable_decay {STEP}2 schedule.decay_steps=0": [0, 1],
    f"cosine_onecycle {STEP}5 schedule.pct_start=0": [*cosine(k[:5], 5, 1, 4e-6)],
    f"cosine_onecycle {STEP}5 schedule.pct_start=1": "must leave a step",
    f"linear_onecycle {STEP}5 schedule.pct_final=1": "must leave a step",
    f"linear_onecycle {STEP}5 schedule.pct_start=0.9": "must leave a step",
    f"constant {STEP}2 optimizer.learning_rate=0": ZERO,
}  # fmt: skip


@pytest.mark.parametrize("case", one_in(2, list(EDGES)))
def test_at_its_edges_a_schedule_is_what_a_person_expects_or_refused(case, composed):
    name, *overrides = case.split()
    cfg = composed(f"schedule={name}", "optimizer.learning_rate=0.01", *overrides)
    cfg.train.steps_per_epoch = 22

    def rates():
        check_lengths(cfg, "schedule")
        made = call(cfg, "schedule")
        base = made.base if isinstance(made, schedules.ReduceOnPlateau) else made
        return schedules.table(base, cfg.train.steps)

    expected = EDGES[case]
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            rates()
    else:
        peak = np.array(expected) * 0.01
        np.testing.assert_allclose(rates(), peak, rtol=1e-4, atol=1e-9)


def plateau(losses, *, window, patience, cooldown, factor, rtol, atol, min_scale):
    """The rule of ReduceLROnPlateau: the scale in force at each loss."""
    best, bad, cooling, scale, scales = math.inf, 0, 0, 1.0, []
    for i, _ in enumerate(losses):
        if (i + 1) % window == 0:
            mean = np.mean(losses[i + 1 - window : i + 1])
            margin = rtol * abs(best) if math.isfinite(best) else 0.0
            improved = mean < best - margin - atol
            best = min(best, mean) if improved else best
            bad = 0 if improved else bad + 1
            if cooling > 0:
                bad, cooling = 0, cooling - 1
            elif bad == patience:
                bad, cooling, scale = 0, cooldown, max(scale * factor, min_scale)
        scales.append(scale)
    return scales


# Each unit, base and framework is tested always.
PLANS = {
    ("steps", "cosine", "jax"), ("epochs", "constant", "nnx"),
    ("steps", "constant", "linen"),
}  # fmt: skip


@pytest.mark.parametrize(
    "unit,base,framework",
    [
        pytest.param(*plan, marks=[] if plan in PLANS else pytest.mark.nightly)
        for plan in itertools.product(
            ["steps", "epochs"], ["constant", "cosine"], ["jax", "linen", "nnx"]
        )
    ],
)
def test_plateau_falls_where_the_rule_says(unit, base, framework, trained):
    # Coarse enough for epochs, whose mean losses hardly ever stop falling here.
    rtol = 0.02 if unit == "steps" else 0.4
    rule = dict(patience=2, cooldown=1, factor=0.5, rtol=rtol, atol=0.0, min_scale=0.05)
    rows = trained(
        f"framework={framework}", "schedule=reduce_on_plateau",
        f"schedule@schedule.base={base}", f"schedule.unit={unit}",
        *(f"schedule.{key}={value}" for key, value in rule.items()),
        "train.epochs=15", "train.log_every_steps=1", "model.hidden_sizes=[16]",
        "optimizer.learning_rate=0.03", "data.batch_size=128",
    )  # fmt: skip
    losses = [row["train/loss"] for row in rows]
    window = 1 if unit == "steps" else 1437 // 128
    scales = plateau(losses, window=window, **rule)
    assert min(scales) < 0.5  # it fell more than once
    base_rates = np.full(len(rows), 0.03)
    if base == "cosine":
        base_rates = cosine(np.arange(len(rows)), len(rows), first=0.03)
    np.testing.assert_allclose(
        [row["train/learning_rate"] for row in rows], base_rates * scales,
        rtol=1e-5, atol=1e-8,
    )  # fmt: skip


@pytest.mark.smoke
def test_plateau_watches_the_evaluation(trained):
    rule = dict(patience=2, cooldown=0, factor=0.5, rtol=0.05, atol=0.0, min_scale=0.0)
    rows = trained(
        "schedule=reduce_on_plateau", "schedule.watch=validation",
        *(f"schedule.{key}={value}" for key, value in rule.items()),
        "train.epochs=20", "train.log_every_steps=1", "optimizer.learning_rate=0.02",
    )  # fmt: skip
    losses = [row["validation/loss"] for row in rows if "validation/loss" in row]
    scales = np.repeat([1.0, *plateau(losses, window=1, **rule)][:-1], 22)
    assert scales.min() < 1
    np.testing.assert_allclose(
        [row["train/learning_rate"] for row in rows], 0.02 * scales, rtol=1e-6
    )


@pytest.mark.parametrize("watch", ["train", "validation"])
@pytest.mark.parametrize("window", [1, 3])
def test_plateau_of_losses_below_zero(watch, window):
    """optax's own limit, (1 - rtol) * best, is then above the best (optax #1767)."""
    rule = dict(patience=2, cooldown=1, factor=0.5, rtol=0.1, atol=0.01, min_scale=0.0)
    in_epochs = watch == "train" and window > 1
    made = schedules.reduce_on_plateau(
        optax.constant_schedule(1.0), watch=watch, steps_per_epoch=window,
        unit="epochs" if in_epochs else "steps", eval_every_steps=1, **rule,
    )  # fmt: skip
    window = made.accumulation_size
    falling = np.linspace(1, -1, 9)
    losses = np.repeat([*falling, *[-1.05] * 6, -1.2, *[-1.3] * 5], window)
    tx = made.transformation

    def step(state, loss):
        _, state = tx.update(jnp.ones(()), state, value=loss, eval_loss=loss)
        return state, schedules.plateau_scale(state)

    state = tx.init(jnp.ones(()))
    found = jax.lax.scan(step, state, jnp.asarray(losses, jnp.float32))[1].tolist()
    expected = plateau(losses, window=window, **rule)
    assert found == expected and expected[-1] < expected[9 * window - 1] == 1


def test_plateau_patience_must_be_whole_evaluations(built):
    with pytest.raises(ConfigError, match=r"whole number of evaluations"):
        built(
            "schedule=reduce_on_plateau", "schedule.watch=validation",
            "schedule.unit=steps", "schedule.patience=30",
        )  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize(
    "schedule",
    [
        lambda step: 0.1 if step < 2 else 0.01,
        lambda step: np.where(np.less(step, 2), 0.1, 0.01),
        lambda step: [0.1, 0.1, 0.01, 0.01][step],
    ],
)
def test_untraceable_schedule_is_evaluated_step_by_step(schedule):
    np.testing.assert_allclose(schedules.table(schedule, 4), [0.1, 0.1, 0.01, 0.01])


def test_a_schedule_gives_one_number():
    with pytest.raises(ConfigError, match=r"of a step it gives shape \(3,\)"):
        schedules.table(lambda step: jnp.ones(3), 4)


def test_negative_learning_rate_is_refused():
    with pytest.raises(ConfigError, match=r"-1\.0 at step 1"):
        schedules.table(lambda step: 1.0 - 2.0 * step, 3)
