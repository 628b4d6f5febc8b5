"""Which digests of a run follow from what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.training import SESSION
from runner.checks.fingerprints import FINGERPRINTS, initial_parameters
from runner.core.pipeline import TrainState
from runner.core.step import Carry
from runner.errors import ConfigError
from runner.job.prepared import built_and_identified

LINEAR = ("data=linear_ae", "model=linear_autoencoder")
FLIP = "data.transforms=[{_target_: runner.data.transforms.flip, column: input}]"


@pytest.fixture
def identified(composed):
    """The digests of a run from overrides."""

    def identified(*overrides: str) -> dict:
        built, digests = built_and_identified(composed(*overrides), SESSION)
        return {**digests, "optimizer_probe": built.found.probe}

    return identified


@pytest.fixture
def differing(identified):
    """The names of the fingerprints in which two runs differ."""

    def differing(base: tuple[str, ...], *other: str) -> set[str]:
        one, two = identified(*base), identified(*base, *other)
        assert one.pop("in_training_too") == two.pop("in_training_too") == {}
        assert set(one) == set(two) == set(FINGERPRINTS)
        assert np.isfinite(one["optimizer_probe"]).all()
        return {name for name in one if one[name] != two[name]}

    return differing


def source(train, validation):
    target = "_target_: helpers.user_sources."
    return (
        "data=source", "data.classes={label: 2}", "framework=jax",
        f"data.train={{{target}{train}}}", f"data.validation={{{target}{validation}}}",
    )  # fmt: skip


def test_examples_that_training_has_too_are_told(identified):
    same = source("Points", "Points, size: 40")
    assert identified(*same)["in_training_too"] == {"validation": 40}


@pytest.mark.parametrize(
    "parts", [("Noisy", "Points"), ("Points", "Noisy")], ids=["train", "validation"]
)
def test_examples_that_change_are_refused(parts, identified, request):
    said = f"data.{request.node.callspec.id} gives other examples when it is read again"
    with pytest.raises(ConfigError, match=f"^verify: {said}.*verify=false"):
        identified(*source(*parts), "verify=true")
    identified(*source(*parts), "verify=false")


@pytest.mark.parametrize(
    ("base", "other", "follows"),
    [
        ((), "framework=jax", set()),
        pytest.param((), "framework=linen", set(), marks=pytest.mark.nightly),
        ((), "model.hidden_sizes=[9]", {"initial_parameters"}),
        ((), "seed=1", {"initial_parameters", "data_order", "first_batch"}),
        ((), "mesh=data", set()),
        ((), "seeds.init=1", {"initial_parameters"}),
        ((), "seeds.order=1", {"data_order", "first_batch"}),
        ((), "data.reshuffle=false", {"data_order"}),
        ((), "seeds.step=1", set()),
        ((FLIP,), "seeds.step=1", {"first_batch"}),
        ((), FLIP, {"first_batch"}),
        ((), "data.mode=stream", {"data_digest"}),  # known by its files
        (LINEAR, "data.data_seed=1", {"data_digest", "data_order", "first_batch"}),
    ],
)
def test_what_follows(differing, base, other, follows):
    assert differing(base, other) == follows


def test_a_model_state_may_have_flags_and_keys(built):
    run = built("train.epochs=1")

    def digest(flag: bool, seed: int) -> str:
        held = {"is_ready": jnp.array([True, flag]), "noise": jax.random.key(seed)}
        carry = Carry(TrainState({"w": jnp.ones(2)}, held, ()), None)
        return initial_parameters(run, lambda *arguments: carry)

    assert len({digest(True, 0), digest(False, 0), digest(True, 1)}) == 3
    assert digest(True, 1) == digest(True, 1)
