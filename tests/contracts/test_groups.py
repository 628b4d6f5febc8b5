"""Groups of parameters and warm starts: packed, split, stopped, and by parity."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.packed import alone, assert_close, together
from helpers.resuming import record
from runner.errors import ConfigError
from runner.parity.compare import compare

GIVEN = (
    "optimizer=muon_adamw", "train.mask_weight_decay=[output]",
    "model.hidden_sizes=[8]",
    "train.epochs=null", "train.steps=8", "train.log_every_steps=1",
    "train.eval_every_steps=4",
)  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Two states of a part of the model."""
    rng = np.random.default_rng(0)
    paths = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    for path in paths:
        kernel = rng.normal(size=(64, 8)).astype(np.float32) / 8
        save_file({"params/dense_0/kernel": kernel}, path)
    return paths


def test_members_have_their_own_rates_and_starts(built, files):
    rates = "optimizer.groups.muon.learning_rate"
    runs = [
        built(*GIVEN, "framework=jax", f"{rates}={rate}", f"init_from={file}")
        for rate, file in zip((0.01, 0.03), files, strict=True)
    ]
    assert runs[0].spec.key == runs[1].spec.key
    rows, errors = together(runs)
    assert errors == {}
    for run, own in zip(runs, rows, strict=True):
        assert_close(own, alone(run), 1e-3)
    assert rows[1][0]["train/learning_rate/muon"] == pytest.approx(0.03)
    assert rows[0][0]["train/loss"] != rows[1][0]["train/loss"]


@pytest.mark.parametrize(
    "framework", [pytest.param("jax", marks=pytest.mark.nightly), "nnx"]
)
def test_a_split_state_trains_alike(framework, trained, files):
    given = (*GIVEN, f"framework={framework}", f"init_from={files[0]}", "mesh.fsdp=4")
    split = trained(*given, "mesh=fsdp", "mesh.min_shard_elements=8")
    one = trained(*given[:-1], "mesh=single")
    for row, wanted in zip(split, one, strict=True):
        assert row == pytest.approx(wanted, rel=1e-3)


def test_a_killed_run_goes_on_from_its_own_checkpoint(ran, tmp_path, files):
    given = ("~model.hidden_sizes", "~train.steps", *GIVEN, "train.steps_per_call=1",
             "checkpoint.every_steps=2", f"init_from={files[0]}")  # fmt: skip
    given = [
        g for g in given if not g.startswith(("train.log", "train.ep", "train.ev"))
    ]
    whole = ran(tmp_path / "whole", *given)
    ran(tmp_path / "killed", *given, stop=6)
    files[0].rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"init_from=.* can't be read"):
        ran(tmp_path / "new", *given)
    assert ran(tmp_path / "killed", *given) == whole
    facts = [record(tmp_path / name, "provenance") for name in ("killed", "whole")]
    for name in ("init_from", "initial_parameters"):
        assert facts[0][name] == facts[1][name]
    with pytest.raises(ConfigError, match=r"init_from=.* can't be read"):
        ran(tmp_path / "killed", *given, "checkpoint.resume=never")


@pytest.mark.nightly
def test_the_frameworks_agree():
    from hydra import initialize_config_dir

    from runner.config import conf

    conf.register()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        (one,) = compare([*GIVEN, "mesh=single"], [""], 4, None)
    for found in one.differences.values():
        assert found.largest.max() < 1e-4, found
