"""Types: of models by `precision`, of optimizer states by their own options."""

import inspect
import os
import pkgutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml

from helpers.at_night import one_in
from helpers.shipped import KINDS, NAMES
from runner import load_run
from runner.config.conf import conf_dir
from runner.core.shapes import step_jaxpr
from runner.errors import ConfigError
from runner.parity.steps import differences, jitted, tolerance

FRAMEWORKS = ("jax", "linen", "nnx")
SHORT = ("train.steps=6", "train.epochs=null", "train.log_every_steps=1")


CNN = ["model.channels=[4,8]", "model.hidden_size=16", "train.convolution=native"]


@pytest.mark.parametrize("model", one_in(2, ["cnn", "mlp"]))
def test_bfloat16_is_the_same_in_three_frameworks(model, trained, built):
    """Parameters stay in float32; one bfloat16 has 8 bits of mantissa."""
    small = CNN if model == "cnn" else ["model.hidden_sizes=[32]"]
    asked = [f"model={model}", *small, *SHORT, "precision=bfloat16"]
    losses = [
        [row["train/loss"] for row in trained(f"framework={f}", *asked)]
        for f in FRAMEWORKS
    ]
    exact = trained("framework=jax", f"model={model}", *small, *SHORT)
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=2**-6)
    exact = [row["train/loss"] for row in exact]
    assert exact != losses[0]
    np.testing.assert_allclose(losses[0], exact, rtol=2**-4)
    run = built("framework=nnx", *asked)
    state = run.spec.pipeline.init(run.init_key, 0.1, run.values.hyperparameters)
    dtypes = {str(x.dtype) for x in jax.tree.leaves((state.params, state.model_state))}
    assert dtypes == {"float32"}


@pytest.mark.parametrize("model", one_in(2, ["mlp", "cnn"]))
def test_each_step_in_bfloat16_is_the_same_from_the_same_state(model, built):
    """From every state on the way of pure JAX, so that nothing adds up."""
    small = "model.channels=[4,8]" if model == "cnn" else "model.hidden_sizes=[32]"
    asked = f"model={model}", small, *SHORT[1:], "train.steps=20", "precision=bfloat16"
    runs = [built(f"framework={f}", *asked) for f in FRAMEWORKS]
    pairs = [(run, jitted(run)) for run in runs]
    found = differences(dict(zip(FRAMEWORKS, pairs, strict=True)), 20)
    allowed = tolerance(runs[0].config["precision"], "cpu")
    assert allowed == 2**-6
    assert max(difference.largest.max() for difference in found.values()) < allowed


@pytest.mark.nightly
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_bfloat16_is_as_accurate(framework, trained):
    found = [
        trained(f"framework={framework}", f"precision={name}")[-1]
        for name in ("float32", "bfloat16")
    ]
    accuracies = [row["validation/accuracy"] for row in found]
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.01)


def test_a_model_that_takes_no_dtype_cant_be_in_bfloat16(built):
    with pytest.raises(ConfigError, match="needs a model that takes dtype="):
        built(
            "precision=bfloat16", "model._target_=helpers.user_targets.other_output",
            "~model.hidden_sizes", "~model.activation", "~model.dropout",
            "framework=jax",
        )  # fmt: skip


def test_the_precision_of_matrix_products_is_in_the_program(built):
    plain, highest = built(), built("precision.matmul=highest")
    assert "HIGHEST" not in str(step_jaxpr(plain.spec, plain.values))
    assert "HIGHEST" in str(step_jaxpr(highest.spec, highest.values))


def dtype_options() -> list:
    """Each option of each optimizer that is a dtype, by its function's signature."""
    found = []
    for name in NAMES:
        config = yaml.safe_load((conf_dir() / "optimizer" / f"{name}.yaml").read_text())
        function = pkgutil.resolve_name(config["_target_"])
        for option in inspect.signature(function).parameters:
            if "dtype" in option and option in config:
                is_kind = name in KINDS and name != "muon"  # whose is that of adamw
                marks = [] if is_kind else pytest.mark.nightly
                found.append(pytest.param(name, option, marks=marks))
    return found


@pytest.mark.parametrize("name,option", dtype_options())
def test_every_dtype_option_builds_verifies_and_trains(name, option, trained):
    rows = trained(
        f"optimizer={name}", f"optimizer.{option}=bfloat16", "verify=true",
        "model.hidden_sizes=[16]", *SHORT,
    )  # fmt: skip
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] * 1.05


def test_it_trains_in_float32_with_64_bits_enabled(tmp_path, folders):
    done = subprocess.run(
        [sys.executable, "-m", "runner", "train.epochs=2", "wandb=disabled",
         "model.hidden_sizes=[8]", "hydra.run.dir=run",
         f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}"],
        cwd=tmp_path,
        env=os.environ | {"JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = load_run(tmp_path / "run")
    assert {str(x.dtype) for x in run.parameters.values()} == {"float32"}
    assert run.rows["step"][-1] == 44
