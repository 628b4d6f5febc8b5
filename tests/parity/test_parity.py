"""The parity command: agreement, and where a difference starts."""

import jax
import numpy as np
import pytest

from helpers.user_targets import NOISY
from runner.core import choose
from runner.core.choose import Choice
from runner.core.pipeline import TrainState
from runner.core.step import Carry, training_batch
from runner.errors import ConfigError
from runner.parity import __main__, compare
from runner.parity.__main__ import main
from runner.parity.steps import apart, moved, tolerance

QUICK = ["--steps", "4", "model.hidden_sizes=[8]", "mesh=single"]


def run(capsys, folders, *arguments):
    cache = f"compilation_cache={folders['xla']}"
    data = f"data.data_dir={folders['data']}"
    with pytest.raises(SystemExit) as ended:
        quick = [q for q in QUICK if f"~{q.split('=')[0]}" not in arguments]
        main([*quick, cache, data, *arguments])
    return ended.value.code, capsys.readouterr().out


@pytest.mark.smoke
def test_frameworks_agree(capsys, folders):
    status, out = run(capsys, folders, "optimizer=adamw", "schedule=cosine")
    assert status == 0
    assert "linen and jax: equal bit for bit in each of 4 steps" in out
    assert "nnx and jax: equal bit for bit in each of 4 steps" in out


def test_a_difference_is_located(capsys, folders, monkeypatch):
    """nnx's third step is spoilt, in one parameter; its fourth starts without that."""
    honest = compare.jitted

    def spoilt(run):
        step = honest(run)
        if not run.config["framework"]["_target_"].startswith("runner.frameworks.nnx"):
            return step

        def take(carry, columns, batches, rates, k, *others):
            carry, rows = step(carry, columns, batches, rates, k, *others)
            if k == 2:
                carry.state.params["output"]["bias"] += 0.1
            return carry, rows

        return take

    monkeypatch.setattr(compare, "jitted", spoilt)
    status, out = run(capsys, folders)
    assert status == 1
    assert "nnx differs from jax by" in out and "at step 3, most in output/bias" in out
    assert "it does in 1 of 4 steps" in out
    assert "linen and jax: equal bit for bit" in out


def test_the_forms_there_are_of_a_port(capsys, folders):
    """Both draw noise, from keys of their own, and have initial values of their own."""
    status, out = run(capsys, folders, *NOISY)
    assert status == 0
    assert "nnx and linen: within" in out and "jax" not in out
    assert "with the values of linen (the model has no `init`)" in out


def test_of_all_pairs_those_that_cannot_be_combined_are_named(
    capsys, folders, monkeypatch
):
    schedules = ["cosine", "piecewise_constant", "polynomial"]
    options = {"optimizer": ["sgd"], "schedule": schedules}
    monkeypatch.setattr(__main__, "_options", options.get)
    status, out = run(capsys, folders, "--all", "--steps", "1")
    assert status == 0 and out.endswith("All agree.\n")
    assert "optimizer=sgd schedule=piecewise_constant: schedule.boundaries=" in out
    rows = [line.split()[0] for line in out.splitlines() if "e+00" in line]
    assert rows == ["cosine", "polynomial"]


def test_the_batches_of_a_port_are_those_of_training(built):
    flip = "{_target_: runner.data.transforms.flip, column: input}"
    run = built("train.epochs=1", f"data.transforms=[{flip}]")
    _, got = compare._batches(run, 2)
    rows = run.spec.dataset.train.rows(run.order.indices_at(1))
    key = jax.random.fold_in(run.values.key, 1)
    wanted = training_batch(run.spec.dataset.transforms, rows, key)
    assert not np.array_equal(got["input"], rows["input"])
    assert np.array_equal(got["input"], wanted["input"])


def test_mistakes_are_told(capsys, folders):
    with pytest.raises(SystemExit) as ended:
        main(["optimizer=adamm"])
    assert "Did you mean 'adam'?" in str(ended.value.code)
    with pytest.raises(SystemExit) as ended:
        main(["--config-dir=nowhere"])
    assert "--config-dir nowhere is not a folder" in str(ended.value.code)


def test_differences_are_relative_to_the_parameter():
    ours, reference = {"w": np.full(3, 101.0)}, {"w": np.full(3, 100.0)}
    assert apart(ours, reference) == pytest.approx({"w": 0.01})
    assert apart({"w": np.full(3, np.nan)}, reference) == {"w": np.inf}


def carry(params, opt_state=()):
    return Carry(TrainState(params, {}, opt_state), None)


def test_a_state_is_moved_only_to_one_like_it():
    ours = carry({"w": np.ones(2)}, [np.ones(2)])
    with pytest.raises(ConfigError, match="differ in v, w"):
        moved(ours, carry({"v": np.ones(2)}, [np.ones(2)]))
    with pytest.raises(ConfigError, match="another state beside them: 2 and 1 arrays"):
        moved(ours, carry({"w": np.ones(2)}))
    like = carry({"w": np.zeros(2)}, {"0": np.zeros(2)})
    assert moved(ours, like).state.opt_state["0"] is ours.state.opt_state[0]


@pytest.mark.parametrize(
    "compute,matmul,backend,expected",
    [
        ("float32", "default", "cpu", 1e-5),
        ("float32", "default", "gpu", 2**-9),
        ("float32", "high", "gpu", 2**-9),
        ("float32", "highest", "gpu", 1e-5),
        ("float32", "default", "tpu", 2**-6),
        ("float32", "high", "tpu", 2**-9),
        ("bfloat16", "highest", "cpu", 2**-6),
    ],
)
def test_the_tolerance_knows_device_and_precision(compute, matmul, backend, expected):
    precision = {"compute": compute, "matmul": matmul}
    assert tolerance(precision, backend) == expected


def test_all_frameworks_have_the_form_of_the_first(folders, monkeypatch):
    honest, forms = compare.jitted, []

    def choose_from_now_on(form):
        choice = Choice(form, 1, "table", {})
        monkeypatch.setattr(choose, "by_table", lambda *_: choice)

    def jitted(run):
        forms.append(run.config["train"]["convolution"])
        choose_from_now_on("native")  # as others would for themselves
        return honest(run)

    choose_from_now_on("patches")
    monkeypatch.setattr(compare, "jitted", jitted)
    small = "data=digits", "model=cnn", "model.channels=[2]", "model.hidden_size=4"
    data = f"data.data_dir={folders['data']}"
    with pytest.raises(SystemExit) as ended:
        main([*small, data, "mesh=single", "compilation_cache=null", "--steps", "1"])
    assert ended.value.code == 0 and forms == ["patches"] * 3
