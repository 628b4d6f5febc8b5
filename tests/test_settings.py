"""Every setting says what it affects, and what follows from that."""

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from runner.record.conditions import BITS
from runner.record.provenance import FACTS, affects
from runner.settings import (
    GROUPS,
    PROGRAM,
    SECTIONS,
    SETTINGS,
    Settings,
    identifies_job,
    is_in_program,
    makes_no_difference,
    may_change_on_resume,
    only_numbers,
    setting,
    settings_of,
)

LEAVES = {key for key in SETTINGS if key not in SECTIONS}


def test_every_key_of_the_configuration_is_a_setting(composed):
    cfg = OmegaConf.to_container(composed(), resolve=False)
    cfg |= {"train.stop": cfg["train"]["stop"]}
    keys = {key for key in cfg if key not in SECTIONS}
    keys |= {f"{section}.{key}" for section in SECTIONS for key in cfg[section]}
    keys -= set(SECTIONS)
    assert keys == {key for key in LEAVES if key.split(".")[0] not in GROUPS} | set(
        GROUPS
    )
    for group_key in LEAVES - keys:  # an argument of a shipped target
        assert group_key.split(".")[1] in cfg[group_key.split(".")[0]]


def test_a_key_that_doesnt_say_what_it_affects_is_an_error():
    @dataclass
    class Young:
        old: int = setting(PROGRAM)
        new: int = field(default=0)

    with pytest.raises(KeyError, match="setting"):
        dict(settings_of(Young))
    assert set(dict(settings_of(Settings))) <= set(SETTINGS)


@pytest.mark.parametrize(
    ("follows", "expected"),
    [
        (
            is_in_program,
            "train.steps_per_call train.gradient_accumulation "
            "train.mask_weight_decay train.convolution train.debug_nans mesh.data "
            "mesh.fsdp mesh.model mesh.min_shard_elements mesh.rules model framework "
            "optimizer schedule data task metrics precision.* "
            "deterministic validation",
        ),
        (
            may_change_on_resume,
            "train.epochs train.steps train.log_every_steps train.choose "
            "train.profile mesh.* "
            "train.stop.metric train.stop.value train.stop.patience "
            "train.stop.min_delta "
            "checkpoint.* !checkpoint.best tracker wandb.* cluster.* distributed.* "
            "objective print probes callbacks "
            "compilation_cache data.data_dir data.manual_dir data.download",
        ),
        (
            lambda key: not identifies_job(key),
            "train.log_every_steps train.choose train.profile checkpoint.* "
            "!checkpoint.best "
            "tracker wandb.* cluster.* distributed.* objective print probes callbacks "
            "compilation_cache "
            "data.data_dir data.manual_dir data.download",
        ),
        (
            makes_no_difference,
            "train.log_every_steps train.choose train.profile checkpoint.* "
            "!checkpoint.best "
            "tracker wandb.* cluster.* distributed.* objective print probes callbacks "
            "compilation_cache "
            "data.data_dir data.manual_dir data.download",
        ),
        (
            only_numbers,
            "seed seeds.* train.steps_per_epoch train.on_nan train.clip_global_norm "
            "train.ema_decay train.limit_batches checkpoint.best data.reshuffle "
            "init_from init_exclude init_rename",
        ),
    ],
    ids=["program", "resume", "job", "compare", "numbers"],
)
def test_what_follows(follows, expected):
    sections = [name[:-2] for name in expected.split() if name.endswith(".*")]
    names = {name for name in expected.split() if not name.endswith(".*")}
    names |= {key for key in LEAVES if key.split(".")[0] in sections}
    names = {key for key in names if key[0] != "!" and f"!{key}" not in names}
    assert {key for key in LEAVES if follows(key)} == names


def test_what_isnt_known_may_change_anything():
    for key in ("mine", "optimizer.mine", "schedule.base.value", "model.width"):
        assert identifies_job(key) and not makes_no_difference(key)
        assert not may_change_on_resume(key)
    assert affects("packages.mine") & PROGRAM and affects("mine") & PROGRAM


def test_the_facts_that_a_replay_needs_as_they_were():
    assert set(BITS) == {
        "jax", "jaxlib", "flax", "optax", "numpy", "backend", "devices", "machine",
        "CPU", "CPUs", "runs side by side", "changes on the way", "XLA_FLAGS",
        "environment",
    }  # fmt: skip


def test_every_fact_of_a_run_is_known(ran, tmp_path):
    import json

    ran(tmp_path / "run")
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert set(provenance) <= set(FACTS)
