import jax
import numpy as np
import pytest

from helpers.mistaken.runs import BARE
from runner.cli import MISTAKES
from runner.errors import ConfigError
from runner.job.check import check_direction


def test_mistakes_in_arguments_are_told_before_the_data_is_prepared(built, monkeypatch):
    monkeypatch.setattr("runner.data.tfds.dataset.prepare", None)
    with pytest.raises(MISTAKES, match="is not an argument"):
        built("+schedule.foo=1")
    with pytest.raises(MISTAKES, match="must be at least 1"):
        built("train.log_every_steps=0")


def test_what_a_users_target_raises_is_theirs_to_see(built):
    with pytest.raises(ValueError, match="mine to see"):
        built("model._target_=helpers.user_targets.raises", *BARE.split())


def test_a_bug_in_ours_is_no_mistake_of_the_user(built, monkeypatch):
    monkeypatch.setattr("runner.job.build._learning_rates", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        built()


def test_a_users_target_needs_no_annotations(composed):
    from runner.config.instantiate import call

    cfg = composed("model._target_=helpers.user_targets.untyped", "+model.width=abc")
    assert call(cfg, "model", inputs=None).init is None


def test_jax_must_compile(ran, tmp_path):
    with jax.disable_jit(), pytest.raises(ConfigError, match="JAX_DISABLE_JIT is set"):
        ran(tmp_path)


@pytest.mark.parametrize("last,told", [(20, True), (39, False)])
def test_a_schedule_that_ends_early_is_told(last, told, ran, tmp_path, capsys):
    ends = (f"schedule.boundaries=[{last}]", "schedule.scales=[0]")
    ran(tmp_path, "schedule=piecewise_constant", *ends, "train.steps=40")
    said = f"the learning rate is 0 after step {last}: nothing is learned in 20 of 40"
    assert (said in capsys.readouterr().err) == told


# Of different lengths: a session warns of each once.
@pytest.mark.parametrize(
    "schedule, steps, told",
    [
        ("warmup_constant schedule.warmup_steps=40", 40, True),
        ("warmup_constant schedule.warmup_steps=40", 41, False),
        ("cosine_onecycle schedule.transition_steps=400", 42, True),
        ("cosine_onecycle", 43, False),
        (
            "reduce_on_plateau schedule@schedule.base=inverse_sqrt "
            "schedule.base.warmup_steps=44",
            44,
            True,
        ),
        ("linear schedule.init_value=0 schedule.end_value=0.001", 45, False),
        (
            "warmup_constant schedule.warmup_steps=46 "
            "schedule._target_=helpers.user_targets.rising",
            46,
            False,
        ),
    ],
)
def test_a_warm_up_that_does_not_get_to_its_peak_is_told(
    schedule, steps, told, ran, tmp_path, capsys
):
    ran(tmp_path, *f"schedule={schedule} train.steps={steps}".split())
    said = f"warning: none of the run's {steps} steps has the learning rate schedule.pe"
    assert (said in capsys.readouterr().err) == told


def test_the_recorded_config_is_complete(built):
    config = built("train.epochs=2", "schedule=warmup_cosine").config
    assert config["train"]["steps_per_epoch"] == 22
    assert config["train"]["steps"] == config["schedule"]["decay_steps"] == 44
    assert config["train"]["eval_every_steps"] == 22
    assert config["schedule"]["peak_value"] == config["optimizer"]["learning_rate"]
    assert "???" not in str(config)


@pytest.mark.parametrize(
    "one,other",
    [
        (["data.data_seed=0"], ["data.data_seed=1"]),
        (["data.noise=0.1"], ["data.noise=0.2"]),
    ],
)
def test_data_of_one_shape_are_not_mixed_up(one, other, built, trained):
    """A program holds its data: once, the first job's were used for the second."""
    linear = ["data=linear_ae", "model=linear_autoencoder", "framework=jax"]
    linear.append("train.epochs=1")
    first, second = built(*linear, *one), built(*linear, *other)
    assert first.spec.key != second.spec.key
    assert first.spec.dataset is not second.spec.dataset
    assert trained(*linear, *one) != trained(*linear, *other)


def test_slices_of_one_length_are_not_mixed_up(built):
    slices, short = ["train[:640]", "train[-640:]"], ["train.epochs=1", "framework=jax"]
    first, second = (
        built(f"data.splits.train='{each}'", *short).spec.dataset.train
        for each in slices
    )
    rows = np.arange(8)
    assert not np.array_equal(first.rows(rows)["input"], second.rows(rows)["input"])


@pytest.mark.parametrize(
    "direction, objective, said",
    [
        ("minimize", "validation/accuracy", "higher values .*direction=maximize"),
        ("maximize", "validation/loss", "lower values .*direction=minimize"),
        ("maximize", "validation/accuracy", None),
        ("minimize", "validation/loss", None),
        ("maximize", "train/grad_norm", None),
        (None, "validation/accuracy", None),
    ],
)
def test_a_search_for_the_worst_value_is_refused(built, direction, objective, said):
    task = built().spec.task
    if said is None:
        return check_direction(direction, objective, task)
    with pytest.raises(
        MISTAKES, match=rf"hydra\.sweeper\.direction={direction} .*{said}"
    ):
        check_direction(direction, objective, task)
