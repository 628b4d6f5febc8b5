"""What runs is what the config says: every sabotage is caught, and nothing else."""

import numpy as np
import pytest

from helpers.sabotaged import CASES
from helpers.shipped import BY_KIND
from helpers.training import build_job
from runner.checks.fingerprints import Examples, identify
from runner.config.conf import conf_dir
from runner.errors import ConfigError

SHORT = ("verify=true", "train.steps=40", "train.epochs=null", "model.hidden_sizes=[8]")


def names(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "pipeline,overrides,message",
    [pytest.param(*CASES[0], marks=pytest.mark.smoke), *CASES[1:]],
    ids=[c[0] for c in CASES],
)
def test_sabotage_is_refused(pipeline, overrides, message, built):
    with pytest.raises(ConfigError, match=f"(?s)verify: .*{message}"):
        built(*SHORT, *overrides, f"framework._target_=helpers.sabotaged.{pipeline}")


def test_verify_may_be_turned_off(trained):
    sabotaged = "framework._target_=helpers.sabotaged.nnx_sgd"
    rows = trained(*SHORT, sabotaged, "verify=false")
    assert rows[-1]["step"] == 40


@pytest.mark.parametrize("optimizer", BY_KIND)
def test_no_optimizer_is_refused_with_a_schedule(optimizer, built):
    built(*SHORT, f"optimizer={optimizer}", "framework=jax", "schedule=warmup_cosine")


# Each schedule in a framework, and reduce_on_plateau in all; the others at night.
SCHEDULES = [
    pytest.param(
        schedule,
        framework,
        marks=[] if i % 3 == j or "plateau" in schedule else pytest.mark.nightly,
    )
    for i, schedule in enumerate(names("schedule"))
    for j, framework in enumerate(("jax", "linen", "nnx"))
]


@pytest.mark.parametrize("schedule,framework", SCHEDULES)
def test_no_schedule_is_refused_in_any_framework(schedule, framework, built):
    built(*SHORT, f"schedule={schedule}", f"framework={framework}")


@pytest.mark.parametrize("framework", ["jax", "linen", "nnx"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=cnn", "model.channels=[4]"],
        ["optimizer=adamw", "train.mask_weight_decay=true"],
        ["train.clip_global_norm=0.1", "optimizer=sgd", "optimizer.momentum=0.9"],
        ["schedule=reduce_on_plateau", "schedule.watch=validation", "train.steps=44"],
        ["optimizer=lbfgs"],
        ["optimizer=sam"],
        ["optimizer.mu_dtype=bfloat16"],
    ],
)
def test_no_option_is_refused(overrides, framework, built):
    built(*SHORT[:3], *overrides, f"framework={framework}")


@pytest.fixture
def identified(composed):
    """The digests of a run from overrides."""

    def identified(*overrides: str) -> dict:
        job = build_job(composed(*overrides))
        data = Examples(job.run.spec.dataset, job.run.values.key)
        return identify(job.run, job.toy, job.init, data)

    return identified


@pytest.fixture
def probe(identified):
    return lambda *overrides: identified(*overrides)["optimizer_probe"]


def test_probe_tells_what_ran_whatever_it_is_called(probe):
    adam = probe(*SHORT)
    called_adam = "framework._target_=helpers.sabotaged.nnx_sgd"
    assert probe(*SHORT, called_adam, "verify=false") != adam
    sgd = probe(*SHORT, "optimizer=sgd")
    swapped = "framework._target_=helpers.sabotaged.linen_sgd"
    linen = probe(*SHORT, swapped, "verify=false", "optimizer.learning_rate=0.1")
    assert linen == sgd != adam


@pytest.mark.parametrize(
    "same", ["framework=jax", "framework=linen", "seed=5", "model.hidden_sizes=[3]"]
)
def test_probe_is_of_the_optimizer_alone(same, probe):
    assert probe(*SHORT) == probe(*SHORT, same)


@pytest.mark.parametrize(
    "other",
    [
        "optimizer.b1=0.8",
        "optimizer.weight_decay=0.02",
        "schedule=cosine",
        "optimizer.learning_rate=0.002",
        "train.clip_global_norm=5.0",
        "train.mask_weight_decay=true",
    ],
)
def test_probe_shows_every_change_of_the_optimizer(other, probe):
    base = (*SHORT, "optimizer=adamw")
    assert probe(*base) != probe(*base, other)


def test_digests_follow_seed_data_and_model(identified):
    base = identified(*SHORT)
    assert identified(*SHORT, "framework=linen") == base
    seed = identified(*SHORT, "seed=1")
    assert seed["initial_parameters"] != base["initial_parameters"]
    assert seed["data_order"] != base["data_order"]
    model = identified(*SHORT, "model.hidden_sizes=[9]")
    assert model["initial_parameters"] != base["initial_parameters"]
    assert model["data_order"] == base["data_order"]
    assert np.isfinite(base["optimizer_probe"]).all()
