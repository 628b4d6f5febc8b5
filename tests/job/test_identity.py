"""Which jobs of a sweep are one and which are two."""

import pytest

from runner.job.identity import base_of, fingerprint


@pytest.mark.parametrize(
    "override", ["checkpoint.every_steps=5", "train.log_every_steps=3", "wandb=online"]
)
def test_a_key_that_changes_no_result_tells_jobs_apart_only_if_it_is_swept(
    composed, override
):
    one, other = composed(), composed(override)
    assert base_of(one) == base_of(other)
    key = override.partition("=")[0]
    assert base_of(one, [key]) != base_of(other, [key])


@pytest.mark.parametrize(
    "override", ["seed=1", "optimizer.learning_rate=0.5", "train.steps=7", "mesh=data"]
)
def test_a_key_that_changes_a_result_always_does(composed, override):
    one, other = (fingerprint(base_of(composed(*o))) for o in ([], [override]))
    assert one != other
