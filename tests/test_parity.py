"""The parity command: agreement, and where a difference starts."""

import numpy as np
import pytest

from helpers.user_targets import NOISY
from runner import parity
from runner.errors import ConfigError
from runner.parity import Trajectory, difference

QUICK = ["--steps", "4", "model.hidden_sizes=[8]", "mesh=single"]


def run(capsys, folders, *arguments):
    cache = f"compilation_cache={folders['xla']}"
    data = f"data.data_dir={folders['data']}"
    with pytest.raises(SystemExit) as ended:
        quick = [q for q in QUICK if f"~{q.split('=')[0]}" not in arguments]
        parity.main([*quick, cache, data, *arguments])
    return ended.value.code, capsys.readouterr().out


@pytest.mark.smoke
def test_frameworks_agree(capsys, folders):
    status, out = run(capsys, folders, "optimizer=adamw", "schedule=cosine")
    assert status == 0
    assert "linen and jax: equal bit for bit over 4 steps" in out
    assert "nnx and jax: equal bit for bit over 4 steps" in out


def test_a_difference_is_located(capsys, folders, monkeypatch):
    """nnx's third step is spoilt, in one parameter."""
    honest = parity.trajectory

    def spoilt(run, steps, train_step):
        ran = honest(run, steps, train_step)
        if run.config["framework"]["_target_"].startswith("runner.frameworks.nnx"):
            ran.params["output/bias"][2] += 0.1
        return ran

    monkeypatch.setattr(parity, "trajectory", spoilt)
    status, out = run(capsys, folders)
    assert status == 1
    assert "nnx differs from jax by" in out and "at step 3, most in output/bias" in out
    assert "linen and jax: equal bit for bit" in out


def test_the_forms_there_are_and_how_they_start(capsys, folders):
    status, out = run(capsys, folders, *NOISY)
    assert status == 1
    assert "nnx differs from linen by" in out and "jax" not in out
    assert "nnx and linen start from different values: give the model an `init`" in out


def test_mistakes_are_told(capsys, folders):
    with pytest.raises(SystemExit) as ended:
        parity.main(["optimizer=adamm"])
    assert "Did you mean 'adam'?" in str(ended.value.code)
    with pytest.raises(SystemExit) as ended:
        parity.main(["--config-dir=nowhere"])
    assert "--config-dir nowhere is not a folder" in str(ended.value.code)


def test_differences_are_relative_to_the_parameter():
    loss = np.ones(2, np.float32)
    one = Trajectory(loss, loss, {"w": np.full((2, 3), 100.0)})
    other = Trajectory(loss, loss * 2, {"w": np.full((2, 3), 101.0)})
    found = difference(other, one)
    np.testing.assert_allclose(found.params, 0.01)
    np.testing.assert_allclose(found.grad_norm, 1.0)
    np.testing.assert_allclose(found.loss, 0.0)


def test_different_parameters_are_named():
    loss = np.ones(1, np.float32)
    one = Trajectory(loss, loss, {"w": np.ones((1, 1))})
    with pytest.raises(ConfigError, match="differ in v, w"):
        difference(one._replace(params={"v": np.ones((1, 1))}), one)
