"""Rounding and chaos are no difference; anything else is."""

import numpy as np
import pytest

from runner.checks.agreement import FLOAT32, Agreement, rounding
from runner.checks.evidence import Distances, Evidence, Series
from runner.errors import Refused

STEPS = np.arange(1, 9)
LOSS = np.linspace(2, 1, 8)


def evidence(off=0.0, name="loss", leaf=0.0, at=4) -> Evidence:
    """A number that is off from a step on, and a parameter that has moved by 1."""
    live = LOSS + np.where(STEPS >= at, off, 0)
    found = Distances({"w": leaf}, {"w": 1.0}, {"w": 10.0})
    return Evidence(0, 8, {f"train/{name}": Series(STEPS, live, LOSS)}, found)


@pytest.mark.parametrize(
    "found,noise",
    [
        (evidence(1e-5, leaf=1e-4), None),
        (evidence(0.1, leaf=0.5), evidence(0.05, leaf=0.1)),  # chaos
        (evidence(0.1), evidence(0.05, at=5)),  # which comes a step later
        (evidence(np.nan, leaf=np.nan), evidence(np.inf, leaf=np.inf)),
        (evidence(0.1, "accuracy", at=8), evidence(0, "accuracy")),  # a tie
    ],
)
def test_rounding_is_no_difference(found, noise):
    def again():
        assert noise is not None, "it is small enough"
        yield noise

    Agreement(FLOAT32).steps(found, again())


def test_nothing_is_computed_that_is_not_needed():
    def again():
        yield evidence(0.05, leaf=0.1)
        raise AssertionError("the first explains it")

    Agreement(FLOAT32).steps(evidence(0.1, leaf=0.5), again())


@pytest.mark.parametrize(
    "found,noise,message",
    [
        (evidence(1e-3), evidence(1e-7), "At step 4 train/loss was 1.57243 instead of"),
        (evidence(0.1), evidence(0.05, at=6), "At step 4 train/loss"),
        (evidence(np.nan), evidence(1e-7), "At step 4 train/loss was nan instead of"),
        (evidence(leaf=np.nan), evidence(), "After step 8 w is nan away from what"),
        (evidence(leaf=0.1), evidence(leaf=1e-6), "w is 0.1 away .* having moved by 1"),
        (
            evidence(0.1, "accuracy"),
            evidence(0, "accuracy"),
            "train/accuracy was",
        ),
    ],
)
def test_anything_else_is(found, noise, message):
    with pytest.raises(Refused, match=f"steps 1 to 8 .*{message}.*verify=false"):
        Agreement(FLOAT32).steps(found, iter([noise]))


def test_signs_that_change_are_rounding():
    """One alone is as large as many: the effect of much noise isn't multiplied."""
    found, much = evidence(leaf=0.1), evidence(leaf=0.2)._replace(noise=1000.0)
    Agreement(FLOAT32).steps(found, iter([evidence(), much]))
    much = evidence(leaf=0.05)._replace(noise=1000.0)
    with pytest.raises(Refused, match=r"w is 0\.1 away"):
        Agreement(FLOAT32).steps(found, iter([evidence(), much]))


def test_a_metric_that_differs_again_and_again_is_no_tie():
    judge = Agreement(FLOAT32)
    with pytest.raises(Refused, match="train/accuracy"):
        for _ in range(2):
            found, noise = (evidence(off, "accuracy", at=8) for off in (0.1, 0.0))
            last = Series(*(x[-1:] for x in found.numbers["train/accuracy"]))
            found = found._replace(numbers={"train/accuracy": last})
            judge.steps(found, iter([noise]))


def test_what_layers_compute_in_decides_how_they_round():
    assert rounding("float32", "default", "cpu") == FLOAT32
    assert rounding("float32", "default", "gpu") == 2**-10
    assert rounding("float32", "highest", "gpu") == FLOAT32
    assert rounding("bfloat16", "default", "cpu") == 2**-7
