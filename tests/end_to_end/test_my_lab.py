"""The parts of examples/my_lab do everything that the shipped ones do."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from helpers.training import build_job, train_run
from runner import load_run
from runner.config import conf

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = ("data=counting", "model=transformer", "task.mask=counts")
VAE = ("model=vae", "task=evidence_bound", "objective=validation/squared_error")
TWO = (
    "data=numpy_file", "model=both", "framework=jax", "task.inputs=[a,b]",
    "task.target=y", "optimizer.learning_rate=0.03",
    "+metric@metrics.within=within", "objective=validation/within",
)  # fmt: skip
LENGTH = ("train.steps=30", "train.epochs=null", "train.log_every_steps=1")


@pytest.fixture
def numpy_file(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 320, 3))
    path = tmp_path / "table.npz"
    np.savez(path, a=a, b=b, y=a[:, 0] - b[:, 1])
    return path


@pytest.fixture
def losses(monkeypatch, folders, numpy_file):
    """The rows of a job with the parts of examples/my_lab."""
    monkeypatch.syspath_prepend(EXAMPLES)
    conf.register()

    def losses(*overrides):
        quick = ["verify=false"]
        if "data=numpy_file" in overrides:
            quick.append(f"data.path={numpy_file}")
        path = f"hydra.searchpath=['file://{EXAMPLES}/my_lab/conf']"
        given = [o for o in overrides if o.startswith("mesh")] or ["mesh=single"]
        others = [o for o in overrides if not o.startswith("mesh")]
        with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
            cfg = compose("config", [*quick, *given, *LENGTH, *others, path])
        with open_dict(cfg):
            if "data_dir" in cfg.data:
                cfg.data.data_dir = str(folders["data"])
        rows = []
        train_run(build_job(cfg).run, rows.append)
        return rows

    return losses


@pytest.mark.parametrize("parts", [TEXT, VAE, TWO], ids=["text", "vae", "two inputs"])
def test_it_trains_verified_and_alike_on_eight_devices(parts, losses):
    alone = losses(*parts, "verify=true")
    assert alone[-1]["train/loss"] < 0.9 * alone[0]["train/loss"]
    objective = [p.split("=")[1] for p in parts if p.startswith("objective")]
    assert set(objective) <= set(alone[-1])
    sharded = losses(*parts, "mesh=fsdp", "mesh.min_shard_elements=64")
    for row, other in zip(alone, sharded, strict=True):
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-3)


def test_masked_tokens_weigh_alike_in_microbatches(losses):
    whole = losses(*TEXT)
    for mesh in ("mesh=single", "mesh=data"):
        parts = losses(*TEXT, "train.gradient_accumulation=4", mesh)
        assert parts[0]["train/loss"] == pytest.approx(whole[0]["train/loss"], rel=1e-6)
        assert parts[0]["train/grad_norm"] == pytest.approx(
            whole[0]["train/grad_norm"], rel=1e-5
        )


def test_a_metric_of_several_parts_and_one_without_a_direction(losses):
    row = losses(*VAE)[-1]
    assert {"validation/squared_error", "validation/divergence"} <= set(row)
    row = losses(*TEXT, "+metric@metrics.each=per_class_accuracy")[-1]
    assert {f"validation/each/{i}" for i in range(11)} <= set(row)


def test_packed_replayed_and_loaded(tmp_path, folders):
    """The commands, from the folder in which `my_lab` is."""
    common = [
        "--config-dir", "my_lab/conf", *TEXT, *LENGTH[:2], "wandb=disabled",
        f"compilation_cache={folders['xla']}",
    ]  # fmt: skip

    def run(module, *arguments, expected=0):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=EXAMPLES, env=os.environ, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == expected, done.stderr
        return done.stdout + done.stderr

    sweep = tmp_path / "sweep"
    said = run("runner", "-m", *common, "seed=0,1", f"hydra.sweep.dir={sweep}")
    assert "sweep 2/2 done" in said
    one = sweep / "seed=0"
    assert "logged rows" in run("runner.replay", str(one), "--allow-rounding")
    saved = load_run(one)
    assert saved.parameters["output/kernel"].shape == (32, 11)
    assert saved.summary["status"] == "finished"
