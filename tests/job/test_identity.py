"""Which jobs of a sweep are one and which are two."""

import pytest

from runner.job.build import build
from runner.job.identity import base_of, fingerprint
from runner.job.session import Session


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


@pytest.mark.parametrize("key", ["probes.a.of", "probes.a", "probes"])
def test_so_does_a_key_deep_in_what_changes_no_result(composed, key):
    probe = "+probe@probes.a=histogram"
    one, other = composed(probe), composed(probe, "probes.a.of=[updates]")
    assert base_of(one) == base_of(other)
    assert base_of(one, [key]) != base_of(other, [key])


@pytest.mark.parametrize(
    "override", ["seed=1", "optimizer.learning_rate=0.5", "train.steps=7", "mesh=data"]
)
def test_a_key_that_changes_a_result_always_does(composed, override):
    one, other = (fingerprint(base_of(composed(*o))) for o in ([], [override]))
    assert one != other


def test_groups_in_another_order_are_another_job_and_program(composed):
    """A parameter is in the first of them that matches."""
    one = "{first: {pattern: kernel, learning_rate: 0.1}"
    other = "{pattern: dense_0, frozen: true}"
    session = Session()
    jobs = [
        composed(f"+optimizer.groups={groups}", "verify=false")
        for groups in (f"{one}, second: {other}}}", f"{{second: {other}, {one[1:]}}}")
    ]
    built = [build(job, session).run for job in jobs]
    names = [[group.name for group in run.optimizer.groups] for run in built]
    assert names == [["first", "second"], ["second", "first"]]
    assert built[0].spec.key != built[1].spec.key
    assert len({fingerprint(base_of(job)) for job in jobs}) == 2
