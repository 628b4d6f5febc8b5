"""What a user's function raises is told first, with the frames of their code alone."""

import pytest

from helpers import raising
from runner.cli import MISTAKES
from runner.config.explain import explain, reason
from runner.config.users_code import raised

BARE = ("~model.hidden_sizes", "~model.activation", "~model.dropout")
PLACES = {
    "called": ("model._target_=helpers.raising.called", *BARE),
    "initial values": ("model._target_=helpers.raising.while_initializing", *BARE),
    "tracing": ("model._target_=helpers.raising.while_tracing", *BARE),
    "a form": ("framework=nnx", "model._target_=helpers.raising.nnx_form", *BARE),
    "loss": ("task=mine", "task._target_=helpers.raising.loss"),
    "metric": ("+metrics.x._target_=helpers.raising.metric",),
    "probe": ("+probes.x._target_=helpers.raising.probe",),
    "schedule": ("schedule._target_=helpers.raising.schedule", "~schedule.value"),
    "transform": ("data.transforms=[{_target_: helpers.raising.transform}]",),
    "data": ("data=linear_ae", "data._target_=helpers.raising.data", "data={}"),
}
NO_ARGUMENTS = {
    "task=mine": [
        "~metrics.accuracy",
        *(f"~task.{name}" for name in "inputs labels label_smoothing weights".split()),
    ],
    "data={}": [
        f"~data.{name}"
        for name in "num_train num_validation num_test input_size rank noise "
        "data_seed batch_size reshuffle mode".split()
    ],
}


def overrides(given):
    return [part for one in given for part in NO_ARGUMENTS.get(one, [one])]


@pytest.mark.parametrize("given", PLACES.values(), ids=PLACES)
def test_the_cause_comes_first_and_then_their_frames_alone(built, given):
    with pytest.raises(ArithmeticError) as caught:
        built("framework=jax", *overrides(given))
    told = raised(caught.value)
    line = raising.fail.__code__.co_firstlineno + 1
    first, *rest = told.splitlines()
    assert first == f"ArithmeticError: mine to see ({raising.__file__}, line {line})"
    assert len(rest) < 12 and "src/runner" not in told and "site-packages" not in told
    assert reason(caught.value) == f" {told}"


@pytest.mark.parametrize(
    "target",
    [
        "data.transforms=[{_target_: helpers.raising.keeping_transform}]",
        "+metrics.x._target_=helpers.raising.keeping_metric",
    ],
)
def test_a_value_that_is_kept_from_another_trace_is_told_as_such(ran, tmp_path, target):
    raising.KEPT.clear()
    with pytest.raises(TypeError) as caught:
        ran(tmp_path, "framework=jax", target)
    assert "What your model, task, metrics, transforms" in (raised(caught.value) or "")


def test_what_it_says_reaches_no_terminal_as_it_is():
    text = "\x1b[31mmine\x1b[0m to see"
    try:
        raising.fail_with(text)
    except ArithmeticError as caught:
        error = caught
    for told in (explain(error), reason(error), reason(error, full=True)):
        assert "\\x1b[31mmine" in told and "\x1b" not in told


def test_a_bug_of_ours_has_its_whole_traceback(built, monkeypatch):
    monkeypatch.setattr("runner.job.build._learning_rates", lambda *_: 1 / 0)
    monkeypatch.setattr("runner.job.shared._check_precision", raising.fail)
    with pytest.raises(ArithmeticError) as caught:
        built("seed=3")
    monkeypatch.setattr("runner.config.users_code._RUNNER", "/nowhere")
    assert raised(caught.value) is None
    assert "Traceback" in reason(caught.value)


SHAPES = {
    "metric_of_three": ("metrics.x: its values have shape (3,)", "shape (64,)"),
    "metric_of_ten": ("metrics.x: finish returns shape (10,)", "shape ()"),
    "metric_of_text": ("metrics.x: finish returns a str", "must return a number"),
    "loss_of_a_batch": ("task: the loss has values of shape ()", "shape (64,)"),
    "loss_weights": ("task: the loss has weights of shape (3,)", "shape (64,)"),
}


def test_a_crop_of_training_alone_is_told(built):
    cropped = "data.transforms=[{_target_: helpers.misjudged.cropped}]"
    with pytest.raises(MISTAKES, match=r"input of shape \(7, 8, 1\) in training and"):
        built("framework=jax", cropped)


@pytest.mark.parametrize("name", SHAPES)
def test_a_wrong_shape_is_one_message_with_both_shapes(built, name):
    given = [f"+metrics.x._target_=helpers.raising.{name}"]
    if name.startswith("loss"):
        given = overrides(["task=mine"]) + [f"task._target_=helpers.raising.{name}"]
    with pytest.raises(MISTAKES) as caught:
        built("framework=jax", *given)
    told = explain(caught.value)
    assert all(part in told for part in SHAPES[name]), told
