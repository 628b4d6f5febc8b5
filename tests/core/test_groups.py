"""Groups of parameters: who is in which, and what each one's optimizer does."""

import re

import jax
import numpy as np
import pytest

from helpers.at_night import one_in
from runner.core import groups as grouping
from runner.errors import ConfigError

FRAMEWORKS = ("linen", "jax", "nnx")
LENGTH = ("train.steps=6", "train.epochs=null", "train.log_every_steps=1")
HEAD = "+optimizer.groups.head={pattern: output, learning_rate: 0.01}"
FROZEN = "+optimizer.groups.still={pattern: dense_0/kernel, frozen: true}"
SMALL = "model.hidden_sizes=[8]"


def ended(run):
    """The parameters of a run before and after its steps, by their paths."""
    from helpers.training import SESSION
    from runner.core.program import init
    from runner.core.run import Host

    before = init(run.spec, run.values).result()(*run.init_arguments).state
    rows, states = [], []
    host = Host(
        lambda i, row: rows.append(row), finish=lambda i, s, n: states.append(s)
    )
    SESSION.train(run, host)
    return rows, before.params, states[0]["params"]


@pytest.mark.parametrize("framework", one_in(3, FRAMEWORKS))
def test_each_group_learns_as_it_says(framework, built):
    """SGD without momentum: the change of a parameter shows its rate.

    contracts/test_groups.py has groups in the other frameworks.
    """
    given = (f"framework={framework}", "optimizer=sgd", SMALL, *LENGTH)
    one = ("train.steps=1", "schedule=constant", "optimizer.learning_rate=0.001")
    run = built(*given, *one, HEAD, FROZEN)
    rows, before, after = ended(run)
    plain = ended(built(*given, *one))[2]
    moved, usual = (
        jax.tree.map(lambda x, y: np.asarray(x) - y, tree, before)
        for tree in (after, plain)
    )
    np.testing.assert_array_equal(moved["dense_0"]["kernel"], 0)
    np.testing.assert_array_equal(moved["dense_0"]["bias"], usual["dense_0"]["bias"])
    for name in ("kernel", "bias"):
        ours, theirs = moved["output"][name], usual["output"][name]
        np.testing.assert_allclose(ours, 10 * theirs, rtol=1e-3, atol=1e-6)
    assert rows[0]["train/learning_rate"] == pytest.approx(0.001)
    assert rows[0]["train/learning_rate/head"] == pytest.approx(0.01)
    assert rows[0]["train/learning_rate/still"] == 0


def test_the_first_group_that_matches_has_the_parameter(assembled):
    both = "+optimizer.groups.kernels={pattern: kernel, learning_rate: 0.1}"
    run = assembled(HEAD, both, SMALL, *LENGTH)
    of = grouping.labels(run.optimizer.groups)
    params = jax.eval_shape(
        run.spec.pipeline.init, run.init_key, 0.1, run.values.hyperparameters
    ).params
    assert of(params) == {
        "dense_0": {"kernel": "kernels", "bias": "rest"},
        "output": {"kernel": "head", "bias": "head"},
    }


def test_rates_follow_the_schedule(trained):
    rows = trained(HEAD, "schedule=cosine", SMALL, *LENGTH)
    rates = [row["train/learning_rate"] for row in rows]
    assert rates[-1] < rates[0] / 2
    own = [row["train/learning_rate/head"] for row in rows]
    np.testing.assert_allclose(own, np.multiply(rates, 10), rtol=1e-6)


def test_a_plateau_scales_every_rate(trained):
    plateau = ("schedule=reduce_on_plateau", "schedule.patience=1",
               "schedule.unit=steps", "schedule.rtol=0.9")  # fmt: skip
    rows = trained(HEAD, *plateau, SMALL, *LENGTH)
    assert rows[-1]["train/learning_rate"] < rows[0]["train/learning_rate"]
    for row in rows:
        ratio = row["train/learning_rate/head"] / row["train/learning_rate"]
        assert ratio == pytest.approx(10)


def test_the_numbers_of_groups_are_arguments(assembled):
    """So a sweep over them is one population."""
    decay = "+optimizer.groups.matrices={pattern: dense_0/kernel, weight_decay: 0.1}"
    keys = {
        assembled("optimizer=adamw", HEAD, decay, SMALL, *more).spec.key
        for more in (
            (),
            ("optimizer.groups.head.learning_rate=0.03",),
            ("optimizer.groups.matrices.weight_decay=0.2",),
        )
    }
    assert len(keys) == 1
    elsewhere = decay.replace("kernel", "bias")
    other = assembled("optimizer=adamw", HEAD, elsewhere, SMALL)
    assert other.spec.key not in keys


G = "+optimizer.groups"
BAD = [
    (f"{G}.a={{learning_rate: 0.1}}", r"groups\.a\.pattern must be given"),
    (f'{G}.a={{pattern: "("}}', r"groups\.a\.pattern=\( must be a regular expression"),
    (
        f"{G}.a={{pattern: hed}}",
        r"groups\.a: 'hed' matches none of the parameters",
    ),
    (f"{G}.a={{pattern: bias, ndim: 2}}", r"'bias' with ndim=2 matches none"),
    (f"{G}.a={{pattern: bias, ndim: two}}", r"ndim=two must be a number of dimensions"),
    (f"{G}.a={{pattern: .}}", r"optimizer\.groups: a match all parameters"),
    (
        f"{G}.a={{pattern: ., frozen: true}}",
        r"optimizer\.groups: a match all parameters",
    ),
    (
        f"{G}.a={{pattern: output}} {G}.b={{pattern: output/bias}}",
        r"groups\.b: 'output/bias' matches only parameters of a: .* first group",
    ),
    (f"{G}.a={{patern: bias}}", r"groups\.a\.patern is not an argument .* 'pattern'"),
    (f"{G}.a={{pattern: bias, b3: 0.1}}", r"groups\.a\.b3 is not an argument of optax"),
    (f"{G}.a={{pattern: bias, b1: 2.0}}", r"groups\.a\.b1=2\.0 must be at least 0"),
    (
        f"{G}.a={{pattern: bias, learning_rate: -1}}",
        r"learning_rate=-1 must be a",
    ),
    (f"{G}.a={{pattern: bias, learning_rate: fast}}", r"learning_rate=fast must be a"),
    (
        f"{G}.a={{pattern: bias, learning_rate: 1}} optimizer.learning_rate=0",
        r"follows the schedule of optimizer\.learning_rate=0",
    ),
    (f"{G}.a={{pattern: bias, frozen: 1}}", r"frozen=1 must be true or false"),
    (
        f"{G}.a={{pattern: bias, frozen: true, learning_rate: 1}}",
        r"frozen=true keeps .*groups\.a\.learning_rate has no effect",
    ),
    (f"{G}.a=fast", r"groups\.a=fast must be a mapping"),
    (f"{G}=[fast]", r"optimizer\.groups=\['fast'\] must be a mapping"),
    (f"{G}.rest={{pattern: bias}}", r"the name of a group must"),
    (f"{G}={{a/b: {{pattern: bias}}}}", r"the name of a group must"),
    (
        f"{G}.a={{pattern: bias, _target_: optax.sdg}}",
        r"a\._target_=optax\.sdg",
    ),
    (
        f"{G}.a={{pattern: bias, _target_: optax.lbfgs}}",
        r"groups\.a: lbfgs computes",
    ),
    (f"{G}.a={{pattern: bias}} optimizer=sam", r"optimizer: sam computes the loss"),
    (
        f"{G}.a={{pattern: bias}} optimizer=schedule_free_sgd",
        r"schedule_free_sgd evaluates other parameters",
    ),
    ("train.mask_weight_decay=[hed] optimizer=adamw", r"'hed' matches none of the"),
    ("train.mask_weight_decay=[.] optimizer=adamw", r"exempts all parameters"),
    ("train.mask_weight_decay=2 optimizer=adamw", r"true, false or a list of regular"),
    ("train.mask_weight_decay=[] optimizer=adamw", r"true, false or a list of regular"),
]


@pytest.mark.parametrize("case", one_in(2, BAD), ids=lambda case: case[0])
def test_bad_groups_have_a_message(case, built):
    given, message = case
    overrides = re.split(r" (?=\+?(?:optimizer|train)[=.])", given)
    with pytest.raises(ConfigError, match=message):
        built(*overrides, SMALL, *LENGTH)
