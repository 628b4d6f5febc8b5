"""Which digests of a run follow from what."""

import pytest

from helpers.training import build_job
from runner.checks.fingerprints import FINGERPRINTS, Examples, identify

LINEAR = ("data=linear_ae", "model=linear_autoencoder")
FLIP = "data.transforms=[{_target_: runner.data.transforms.flip, column: input}]"


@pytest.fixture
def differing(composed):
    """The names of the fingerprints in which two runs differ."""

    def identified(*overrides: str) -> dict:
        job = build_job(composed(*overrides))
        data = Examples(job.run.spec.dataset, job.run.values.key)
        return identify(job.run, job.found, job.init, data)

    def differing(base: tuple[str, ...], *other: str) -> set[str]:
        one, two = identified(*base), identified(*base, *other)
        assert set(one) == set(two) == set(FINGERPRINTS)
        return {name for name in one if one[name] != two[name]}

    return differing


@pytest.mark.parametrize(
    ("base", "other", "follows"),
    [
        ((), "framework=jax", set()),
        ((), "mesh=data", set()),
        ((), "seeds.init=1", {"initial_parameters"}),
        ((), "seeds.order=1", {"data_order", "first_batch"}),
        ((), "seeds.step=1", set()),
        ((FLIP,), "seeds.step=1", {"first_batch"}),
        ((), FLIP, {"first_batch"}),
        ((), "data.mode=stream", {"data_digest"}),  # known by its files
        (LINEAR, "data.data_seed=1", {"data_digest", "data_order", "first_batch"}),
    ],
)
def test_what_follows(differing, base, other, follows):
    assert differing(base, other) == follows
