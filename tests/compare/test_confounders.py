"""Fifty ways in which two groups can differ, beside the factor asked about.

Each is a confounder, follows from the factor, or can't change what is compared.
"""

import pytest

from helpers.compare_runs import write_run
from runner.compare.analysis import analyse
from runner.compare.load import load

BASE = {
    "optimizer_probe": [0.1, 0.2],
    "initial_parameters": "i",
    "data_order": "o",
    "first_batch": "b",
    "data_digest": {"train": {"input": "x", "label": "y"}},
    "python": "3.11.9",
    "backend": "cpu",
    "devices": ["cpu"],
    "xla_flags": "",
    "environment": {"jax_enable_x64": "False"},
    "packages": {"jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "mine": "1"},
    "module_digests": {"my_lab.parts": "a"},
    "runner_files": "r",
    "runner_git": {"commit": "c", "dirty": False},
    "git": {"commit": "c0ffee", "dirty": False},
    "changes": [],
    "hostname": "here",
    "platform": "Linux",
    "cpu_count": 8,
    "members": 1,
}


def with_fact(**changed):
    """Facts with some changed; a mapping is merged."""
    return {
        "provenance": {
            key: BASE[key] | value if isinstance(value, dict) else value
            for key, value in changed.items()
        }
    }


def with_setting(key, value):
    return {"config": {key: value}}


DATA = {"train": {"input": "x", "label": "shuffled"}}
FRAMEWORK, OPTIMIZER = "framework", "optimizer"

# What the second group has, asked by the factor: the name of the confounder, or None.
WAYS = {
    "another optimizer": (FRAMEWORK, {"optimizer": "sgd"}, "optimizer"),
    "other updates under the same name": (
        FRAMEWORK, with_fact(optimizer_probe=[1.0, 2.0]), "optimizer probe"
    ),
    "a rounded probe": (FRAMEWORK, with_fact(optimizer_probe=[0.1000001, 0.2]), None),
    "another learning rate": (
        FRAMEWORK, with_setting("optimizer.learning_rate", 0.01),
        "optimizer.learning_rate",
    ),
    "another schedule": (FRAMEWORK, {"schedule": "cosine"}, "schedule"),
    "another b1": (FRAMEWORK, with_setting("optimizer.b1", 0.8), "optimizer.b1"),
    "another model": (FRAMEWORK, {"model": "cnn"}, "model"),
    "wider layers": (
        FRAMEWORK, with_setting("model.hidden_sizes", [9]), "model.hidden_sizes"
    ),
    "dropout": (FRAMEWORK, with_setting("model.dropout", 0.1), "model.dropout"),
    "another framework": (OPTIMIZER, {"framework": "jax"}, "framework"),
    "another task": (FRAMEWORK, {"task": "regression"}, "task"),
    "smoothed labels": (
        FRAMEWORK, with_setting("task.label_smoothing", 0.1), "task.label_smoothing"
    ),
    "another seed": (FRAMEWORK, {"seed": 7}, "seed"),
    "another order": (FRAMEWORK, with_setting("seeds.order", 7), "seed"),
    "more steps": (FRAMEWORK, with_setting("train.steps", 60), "train.steps"),
    "gradient clipping": (
        FRAMEWORK, with_setting("train.clip_global_norm", 1.0), "train.clip_global_norm"
    ),
    "accumulation": (
        FRAMEWORK, with_setting("train.gradient_accumulation", 4),
        "train.gradient_accumulation",
    ),
    "averaged parameters": (
        FRAMEWORK, with_setting("train.ema_decay", 0.9), "train.ema_decay"
    ),
    "fewer batches": (
        FRAMEWORK, with_setting("train.limit_batches", 3), "train.limit_batches"
    ),
    "masked decay": (
        FRAMEWORK, with_setting("train.mask_weight_decay", True),
        "train.mask_weight_decay",
    ),
    "an early end": (
        FRAMEWORK, with_setting("train.stop.patience", 3), "train.stop.patience"
    ),
    "it goes on after NaN": (
        FRAMEWORK, with_setting("train.on_nan", "continue"), "train.on_nan"
    ),
    "larger batches": (
        FRAMEWORK, with_setting("data.batch_size", 256), "data.batch_size"
    ),
    "another precision": (
        FRAMEWORK, with_setting("precision.compute", "bfloat16"), "precision.compute"
    ),
    "not verified": (FRAMEWORK, with_setting("verify", False), "verify"),
    "the best state": (
        FRAMEWORK, with_setting("checkpoint.best", True), "checkpoint.best"
    ),
    "another objective": (FRAMEWORK, with_setting("objective", "train/loss"), None),
    "the best state by another objective": (
        FRAMEWORK, with_setting("objective", "train/loss"), "objective"
    ),
    "resumed from another run": (
        FRAMEWORK, with_setting("checkpoint.resume", "/runs/pretrained"),
        "checkpoint.resume",
    ),
    "never resumed": (FRAMEWORK, with_setting("checkpoint.resume", "never"), None),
    "changed on the way": (
        FRAMEWORK, with_fact(changes=["seed: 0 up to step 10, then 1"]), "changes"
    ),
    "restarted bit for bit": (FRAMEWORK, with_fact(restarts=[{"step": 10}]), None),
    "another split of validation": (
        FRAMEWORK, with_setting("data.eval_split", "test"), "data.eval_split"
    ),
    "other initial values": (
        FRAMEWORK, with_fact(initial_parameters="j"), "initial parameters"
    ),
    "another order of examples": (FRAMEWORK, with_fact(data_order="p"), "data order"),
    "another first batch": (FRAMEWORK, with_fact(first_batch="c"), "first batch"),
    "shuffled labels": (
        FRAMEWORK, with_fact(data_digest=DATA), "data_digest.train.label"
    ),
    "a column left out": (
        FRAMEWORK, {"provenance": {"data_digest": {"train": {"input": "x"}}}},
        "data_digest.train.label",
    ),
    "another folder with the same data": (
        FRAMEWORK, with_setting("data.data_dir", "/other"), None
    ),
    "another folder with unknown data": (
        FRAMEWORK,
        {"provenance": {"data_digest": None}} | with_setting("data.data_dir", "/other"),
        "data.data_dir",
    ),
    "another file with the same data": (
        FRAMEWORK, with_setting("data.path", "/other.csv"), None
    ),
    "another file with other data": (
        FRAMEWORK,
        with_setting("data.path", "/other.csv") | with_fact(data_digest=DATA),
        "data_digest.train.label",
    ),
    "another file with unknown data": (
        FRAMEWORK,
        {"provenance": {"data_digest": None}}
        | with_setting("data.path", "/other.csv"),
        "data.path",
    ),
    "of an older runner": (
        FRAMEWORK,
        {
            "config": {
                "validation": "validation", "data.reshuffle": True,
                "train.stop": {"metric": "validation/loss", "min_delta": 0.0},
            }
        },
        None,
    ),
    "what no older runner did": (
        FRAMEWORK, with_setting("data.reshuffle", False), "data.reshuffle"
    ),
    "edited code": (
        FRAMEWORK, with_fact(module_digests={"my_lab.parts": "b"}),
        "module_digests.my_lab.parts",
    ),
    "another commit": (FRAMEWORK, with_fact(git={"commit": "b"}), "git.commit"),
    "uncommitted code": (FRAMEWORK, with_fact(git={"dirty": True}), "git.dirty"),
    "an edited runner": (FRAMEWORK, with_fact(runner_files="s"), "runner_files"),
    "another jax": (FRAMEWORK, with_fact(packages={"jax": "0.11"}), "packages.jax"),
    "a package of one's own": (
        FRAMEWORK, with_fact(packages={"mine": "2"}), "packages.mine"
    ),
    "another Python": (FRAMEWORK, with_fact(python="3.12"), "python"),
    "another device": (FRAMEWORK, with_fact(devices=["H100"]), "devices"),
    "a flag of XLA": (
        FRAMEWORK, with_fact(xla_flags="--xla_cpu_enable_fast_math=true"), "xla_flags"
    ),
    "a variable set": (
        FRAMEWORK, with_fact(environment={"NVIDIA_TF32_OVERRIDE": "0"}),
        "environment.NVIDIA_TF32_OVERRIDE",
    ),
    "64 bits": (
        FRAMEWORK, with_fact(environment={"jax_enable_x64": "True"}),
        "environment.jax_enable_x64",
    ),
    "another computer of the same kind": (
        FRAMEWORK, with_fact(hostname="there", cpu_count=16), None
    ),
    "members of a population": (FRAMEWORK, with_fact(members=8), None),
    "another name in W&B": (FRAMEWORK, with_setting("wandb.name", "x"), None),
    "rows less often": (FRAMEWORK, with_setting("train.log_every_steps", 50), None),
    "an optimizer's own keys": (
        OPTIMIZER, {"optimizer": "sgd"} | with_fact(optimizer_probe=[1.0, 2.0]), None
    ),
    "a schedule's probe": (
        "schedule", {"schedule": "cosine"} | with_fact(optimizer_probe=[1.0, 2.0]), None
    ),
    "the data's own digests": (
        "data",
        {"data": "kmnist"} | with_fact(data_digest=DATA, first_batch="c"),
        None,
    ),
}  # fmt: skip


def test_they_are_fifty():
    assert len(WAYS) >= 50


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_flagged_unless_it_follows_from_the_factor(tmp_path, way):
    by, second, expected = WAYS[way]
    best = "the best state" in way and expected == "objective"
    first = {
        "config": {
            "verify": True, "checkpoint.resume": "auto", "checkpoint.best": best,
        }
    }  # fmt: skip
    own = {by: {"framework": "jax", "optimizer": "adam"}.get(by, "constant")}
    other = {by: {"framework": "linen", "optimizer": "sgd"}.get(by, "cosine")}
    write_run(tmp_path / "a", **{**first, **own, "provenance": BASE})
    facts = {"provenance": BASE | second.get("provenance", {})}
    config = {"config": first["config"] | second.get("config", {})}
    write_run(tmp_path / "b", **{**other, **second, **config, **facts})
    control = analyse(load([tmp_path]), by=by).control
    names = [key.name for key in control.confounders]
    assert (expected in names) if expected else not names
    assert control.controlled == (expected is None)
    assert not control.apart.keys() - {"MISLABELED"}
