"""What a user's function returns is checked before anything is traced with it."""

import pytest

from helpers.mistaken.runs import BARE
from runner.cli import MISTAKES
from runner.config.explain import explain, reason

MODEL = "a runner.models.model.Model"
TASK = ("+metrics.accuracy=null", "~task", "+task._target_=helpers.returning.{}")
OPTIMIZER = ("~optimizer", "+optimizer={{_target_: helpers.returning.{},"
             " learning_rate: 0.1}}")  # fmt: skip
METRIC = ("+metrics.x._target_=helpers.returning.{}",)
SCHEDULE = ("~schedule", "+schedule._target_=helpers.returning.{}")
TRANSFORM = ("data.transforms=[{{_target_: helpers.returning.{}}}]",)
DATA = ("~data", "+data._target_=helpers.returning.{}")
FRAMEWORK = ("framework._target_=helpers.returning.{}",)


def model(framework):
    target = "model._target_=helpers.returning.{}"
    return (f"framework={framework}", target, *BARE.split())


NNX, LINEN = model("nnx"), model("linen")
# The function, the overrides that choose it, and what the one message must say.
WRONG = [
    ("layer", NNX, "model: helpers.returning.layer returned a Linear", MODEL),
    ("made_nnx", NNX, "nnx=Linear(...)", "such as nnx=lambda rngs: Linear(...)"),
    ("made_linen", LINEN, "linen=Dense(...)", "such as linen=lambda: Dense(...)"),
    ("no_nnx_module", NNX, "model: its function nnx returned a function"),
    ("no_linen_module", LINEN, "model: its function linen returned a", "linen.Module"),
    ("a_number_as_form", LINEN, "a Model of linen=3, which must be a function"),
    ("linen_alone", NNX, "has no 'nnx'", "it has linen. Try framework=linen"),
    ("a_function", TASK, "task: ", "returned a function", "a runner.tasks.task.Task"),
    ("output_without_shape", TASK, "a Task of output=10", "such as (10,)"),
    ("a_column_as_inputs", TASK, "a Task of inputs='input'", "must be a function"),
    ("a_loss_alone", TASK, "task: the loss returned an array of shape (64,)", "tuple"),
    ("own_metric", TASK, "its metric sure", "a runner.tasks.metric.Metric"),
    ("nothing", METRIC, "metrics.x: helpers.returning.nothing returned None"),
    ("a_class", METRIC, "returned the class Metric"),
    ("another_better", METRIC, "better='higher'", "'min', 'max' or None"),
    ("rate_alone", OPTIMIZER, "optimizer: rate_alone returned", "optax.chain"),
    ("optimizers", OPTIMIZER, "optimizer: optimizers returned a tuple"),
    ("nothing", SCHEDULE, "schedule: its function returned None", "from a step"),
    ("rates", SCHEDULE, "schedule: of a step it gives shape (3,)", "shape ()"),
    ("no_rate", SCHEDULE, "schedule: of a step it gives nothing"),
    ("nothing", TRANSFORM, "data.transforms[0]: its function returned None"),
    ("no_batch", TRANSFORM, "data.transforms[0]: it returned None", "dict of arrays"),
    ("a_column", TRANSFORM, "it returned an array of shape"),
    ("half_a_column", TRANSFORM, "data.transforms[0]: it returned a batch of", "(32,)"),
    ("one_number", TRANSFORM, "'share': ()", "that of the examples"),
    ("nothing", DATA, "data: helpers.returning.nothing", "runner.data.dataset.Dataset"),
    ("nothing", FRAMEWORK, "returned None", "a runner.core.pipeline.Pipeline"),
    ("without_functions", FRAMEWORK, "a Pipeline of init=None", "must be a function"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[1][-1]} {case[0]}")
def test_what_is_of_another_kind_is_one_message_that_says_of_which(built, case):
    name, given, *parts = case
    with pytest.raises(MISTAKES) as caught:
        built(*(override.format(name) for override in given))
    told = explain(caught.value)
    assert all(part in told for part in parts), told


# Of these a library raises it, or Python, in no line of the user's.
RAISED = [
    ("layers_that_dont_fit", NNX, "model: TypeError: dot_general", "(8,) and (9,)"),
    ("linen_layers_that_dont_fit", LINEN, "model: ", "flax"),
    ("without_train", LINEN, "model: TypeError", "keyword argument 'train'"),
    ("two_arguments", METRIC, "metrics.x: TypeError", "positional argument"),
    ("rate_of_two", SCHEDULE, "schedule: TypeError", "'total'"),
    ("without_train_argument", TRANSFORM, "data.transforms[0]: TypeError", "3 were"),
]


@pytest.mark.parametrize("case", RAISED, ids=lambda case: case[0])
def test_what_a_library_raises_in_a_part_is_told_of_the_part(built, case):
    name, given, *parts = case
    with pytest.raises(Exception) as caught:
        built(*(override.format(name) for override in given))
    told = reason(caught.value)
    assert "Traceback" not in told and told.count("\n") < 4, told
    assert all(part in told for part in parts), told
