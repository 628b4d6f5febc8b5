"""What runs is what the config says: every sabotage is caught, and nothing else."""

import random
import re
from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import linen

from helpers.at_night import each_in_one, one_in
from helpers.sabotaged import gradients, groups, states, steps, updates
from helpers.shipped import KINDS, NAMES
from helpers.verified import toy_of, verify_alone
from runner.checks import library
from runner.checks.verify import verify
from runner.config.conf import conf_dir
from runner.errors import ConfigError
from runner.job.session import Session

SHORT = ("verify=true", "train.steps=40", "train.epochs=null", "model.hidden_sizes=[8]")
LENGTH = SHORT[1:3]
FRAMEWORKS = ("jax", "linen", "nnx")


def names(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.fixture
def verified(composed):
    """Verify a pipeline from overrides."""
    return lambda *overrides: verify_alone(composed(*LENGTH, *overrides))


ALL = [
    (f"{module.__name__}.{pipeline}", overrides, message)
    for module in (updates, steps, gradients, states, groups)
    for pipeline, overrides, message in module.CASES
]


def marks(i, target):
    """One in five is tested always, of each module; the others at night.

    These are in each framework, of a schedule, clipping, statistics, weights, dropout.
    """
    if target.endswith(".linen_sgd"):
        return pytest.mark.smoke
    return () if i % 5 == 3 else pytest.mark.nightly


CASES = [
    pytest.param(
        target,
        overrides,
        message,
        id="-".join([target.split(".")[-1], *overrides]),
        marks=marks(i, target),
    )
    for i, (target, overrides, message) in enumerate(ALL)
]


@pytest.mark.parametrize("target,overrides,message", CASES)
def test_sabotage_is_refused(target, overrides, message, verified):
    with pytest.raises(ConfigError, match=f"(?s)verify: .*{message}"):
        verified(*overrides, f"framework._target_={target}")


def test_a_build_refuses_what_verification_does(built):
    target = "framework._target_=helpers.sabotaged.updates.linen_sgd"
    with pytest.raises(ConfigError, match=r"match optax\.sgd\(0\.001\), not optax"):
        built(*SHORT, target)


def test_verify_may_be_turned_off(trained):
    sabotaged = "framework._target_=helpers.sabotaged.updates.nnx_sgd"
    rows = trained(*SHORT, sabotaged, "verify=false")
    assert rows[-1]["step"] == 40


def test_each_run_drives_its_own_numbers(composed, built):
    """What a sweep has verified of one run says nothing of another."""
    target = "framework._target_=helpers.sabotaged.steps.at_most_2"
    built(*SHORT, target, "optimizer.learning_rate=0.1")
    with pytest.raises(ConfigError, match=r"match optax\.adam\(2\), not optax\.adam"):
        built(*SHORT, target, "optimizer.learning_rate=10")


def replaced_adam(*_, learning_rate, **more):
    return optax.sgd(learning_rate)


def doubled_updates(params, updates):
    return jax.tree.map(lambda p, u: p + 2 * u, params, updates)


@pytest.mark.parametrize(
    "name,replacement",
    [("adam", replaced_adam), ("apply_updates", doubled_updates)],
)
def test_a_patched_library_is_named(name, replacement, monkeypatch, verified):
    monkeypatch.setattr(optax, name, replacement)
    monkeypatch.setattr("helpers.verified.SESSION", Session())  # which has no adam yet
    with pytest.raises(ConfigError, match=r"optax \S+ isn't the released one"):
        verified("framework=jax")


def halved(*arguments, **more):
    return 0.5


@pytest.mark.parametrize(
    "owner,name",
    [(jax.nn, "gelu"), (linen.Dropout, "__call__"), (optax.losses, "l2_loss")],
)
def test_a_replaced_function_is_named(owner, name, monkeypatch, verified):
    """The reference has it too, so that nothing differs."""
    monkeypatch.setattr(owner, name, halved)
    whole_name = rf"(jax.nn|flax.linen.Dropout|optax.losses)\.{name}"
    with pytest.raises(
        ConfigError, match=rf"{whole_name} is that of \S+test_verify.py"
    ):
        verified("framework=jax")


@pytest.mark.parametrize("wrapped", [jax.jit, partial, jax.custom_jvp])
def test_a_replacement_is_found_in_its_wrapping(wrapped, monkeypatch):
    monkeypatch.setattr(jax.nn, "relu", wrapped(halved))
    assert library.replaced().startswith(f"jax.nn.relu is that of {__file__}:")


@pytest.mark.parametrize(
    "owner,name,other,said",
    [
        (jax.nn, "relu", jax.nn.gelu, r"jax\.nn\.relu is jax\.\S+\.gelu"),
        (linen, "Dense", linen.DenseGeneral, r"Dense is flax\.\S+\.DenseGeneral"),
        (optax, "adam", partial(optax.adam, b1=0.5), r"optax\.adam is functools"),
    ],
)
def test_a_name_that_stands_for_another_function_is_found(
    owner, name, other, said, monkeypatch
):
    assert library.replaced() is None
    monkeypatch.setattr(owner, name, other)
    assert re.search(said, library.replaced())


def test_a_pipeline_cannot_change_the_hyperparameters_of_a_run(built):
    target = "framework._target_=helpers.sabotaged.updates.changes_its_arguments"
    assert built(*SHORT, target).hyperparameters["b1"] == 0.9


def test_a_library_of_unknown_version_is_recorded(monkeypatch, verified):
    monkeypatch.setattr("runner.checks.golden.version", lambda name: "9.9.9")
    assert verified("framework=jax").optax == "9.9.9, of which no probe is known"


@pytest.mark.parametrize("base", one_in(3, ["nnx", "linen", "jax"]))
def test_a_state_of_its_own_is_no_sabotage(base, verified):
    target = "framework._target_=helpers.sabotaged.steps.its_own_state"
    verified(target, f"+framework.base={base}")


@pytest.mark.parametrize("optimizer", one_in(5, KINDS))
def test_no_optimizer_is_refused_with_a_schedule(optimizer, verified):
    """core/test_optimizers.py verifies each of KINDS, without one."""
    found = verified(
        f"optimizer={optimizer}", "framework=jax", "schedule=warmup_cosine"
    )
    probed = f"{optax.__version__}, not probed: rounding decides these updates"
    assert found.optax == (probed if optimizer == "galore" else optax.__version__)


@pytest.mark.parametrize("framework", one_in(3, FRAMEWORKS))
def test_no_schedule_is_refused_in_any_framework(framework, composed):
    """They share what is compiled, but for the one that has a state."""
    asked = (*LENGTH, f"framework={framework}")
    shared, _ = toy_of(composed(*asked))
    for schedule in names("schedule"):
        own, numbers = toy_of(composed(*asked, f"schedule={schedule}"))
        is_stateless = schedule != "reduce_on_plateau"
        verify(shared if is_stateless else own, numbers, refuse=True)


WARMED_UP = [
    name for name in names("schedule") if name.startswith(("inverse_sqrt", "warmup"))
]


@pytest.mark.nightly
@pytest.mark.parametrize("schedule", names("schedule"))
@pytest.mark.parametrize("optimizer", NAMES)
def test_no_optimizer_is_refused_with_any_schedule(optimizer, schedule, verified):
    if schedule == "reduce_on_plateau" and optimizer.startswith("schedule_free"):
        pytest.skip("refused for another reason")
    more = []
    if optimizer in ("dadapt_adamw", "prodigy") and schedule in WARMED_UP:
        more = ["schedule.init_value=1e-3"]  # refused at 0, from which they get NaN
    verified(f"optimizer={optimizer}", f"schedule={schedule}", "framework=jax", *more)


OPTIONS = [
    ["optimizer=adamw", "train.mask_weight_decay=true"],
    ["train.clip_global_norm=0.1", "optimizer=sgd", "optimizer.momentum=0.9"],
    ["schedule=reduce_on_plateau", "schedule.watch=validation", "train.steps=44"],
    ["optimizer.mu_dtype=bfloat16"],
    ["optimizer=sam"],
    ["optimizer=lbfgs"],
    ["precision.compute=bfloat16"],
]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_optimizer_that_updates_seldom_is_refused(framework, verified):
    asked = own_optimizer("every_fourth")
    verified(*asked, "schedule=cosine", f"framework={framework}")


@pytest.mark.parametrize(
    "name,said",
    [
        ("at_its_own_rate", "takes a learning rate and doesn't use it"),
        ("no_optimizer", "returned None, and must return a gradient transformation"),
    ],
)
def test_an_optimizer_must_be_one_and_use_its_rate(name, said, verified):
    with pytest.raises(ConfigError, match=f"{name} {said}"):
        verified(*own_optimizer(name), "framework=jax")


def own_optimizer(name):
    target = f"+optimizer._target_=helpers.user_targets.{name}"
    return ("~optimizer", target, "+optimizer.learning_rate=0.001")


@pytest.mark.parametrize("overrides,framework", each_in_one(OPTIONS, FRAMEWORKS))
def test_no_option_is_refused(overrides, framework, verified):
    verified(*overrides, f"framework={framework}")


# Of each row one: any combination is honest.
CHOICES = [
    [[f"framework={name}"] for name in FRAMEWORKS],
    [
        [],
        ["data=linear_ae", "model=linear_autoencoder", "task=reconstruction"],
        ["task=reconstruction", "task.inputs=input", "model=mlp"],
        ["task.label_smoothing=0.1"],
        ["task.class_weights=[1,2,1,1,1,1,1,1,1,3]"],
        ["model=cnn", "+metric@metrics.top=top_k", "+metric@metrics.f1=macro_f1"],
    ],
    [
        [f"optimizer={name}"]
        for name in ("sgd", "adam", "adamw", "lion", "muon", "adafactor", "lamb", "sam")
    ],
    [[], ["optimizer.learning_rate=1e-6"], ["optimizer.learning_rate=10"]],
    [
        [],
        ["schedule=warmup_cosine"],
        ["schedule=reduce_on_plateau"],
        ["schedule=reduce_on_plateau", "schedule.unit=steps", "schedule.patience=2"],
        ["schedule=reduce_on_plateau", "schedule.watch=validation"],
    ],
    [[], ["precision.compute=bfloat16"], ["precision.matmul=highest"]],
    [[], ["train.clip_global_norm=1.0"], ["train.clip_global_norm=1e-3"]],
    [[], ["train.gradient_accumulation=4"], ["train.ema_decay=0.9"]],
]


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(200))
def test_no_combination_is_refused(number, verified):
    rng = random.Random(number)
    verified(*(o for row in CHOICES for o in rng.choice(row)), "train.epochs=2",
             "train.steps=null")  # fmt: skip


def test_probe_is_recorded_of_what_cannot_run_on_a_toy(composed):
    target = "framework._target_=helpers.sabotaged.updates.forgets_value"
    cfg = composed(*LENGTH, target, "schedule=reduce_on_plateau")
    assert verify_alone(cfg, refuse=False).probe is None


@pytest.fixture
def probe(composed):
    return lambda *more: verify_alone(composed(*LENGTH, *more), refuse=False).probe


def test_probe_tells_what_ran_whatever_it_is_called(probe):
    adam = probe()
    assert probe("framework._target_=helpers.sabotaged.updates.nnx_sgd") != adam
    sgd = probe("optimizer=sgd")
    swapped = "framework._target_=helpers.sabotaged.updates.linen_sgd"
    assert probe(swapped, "optimizer.learning_rate=0.1") == sgd != adam


def test_probe_is_of_the_optimizer_alone(probe):
    wanted = probe()
    others = "framework=jax", "framework=linen", "seed=5", "model.hidden_sizes=[3]"
    for same in others:
        assert probe(same) == wanted, same


def test_probe_shows_every_change_of_the_optimizer(probe):
    adamw = probe("optimizer=adamw")
    for other in (
        "optimizer.b1=0.8",
        "optimizer.weight_decay=0.02",
        "schedule=cosine",
        "optimizer.learning_rate=0.002",
        "train.clip_global_norm=5.0",
        "train.mask_weight_decay=true",
    ):
        assert probe("optimizer=adamw", other) != adamw, other


def test_runs_that_share_a_program_share_what_is_compiled(composed):
    trajectories, numbers = toy_of(composed(*LENGTH, "framework=jax"))
    compiled = set()
    for rate in (0.1, 0.01):
        rates = np.full_like(numbers.learning_rates, rate)
        verify(trajectories, numbers._replace(learning_rates=rates), refuse=True)
        compiled.add((trajectories._float32, trajectories._float64))
    assert len(compiled) == 1
