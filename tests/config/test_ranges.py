"""Values that make no sense are refused before anything is loaded."""

import pytest
from omegaconf import OmegaConf

from helpers.shipped import NAMES
from runner.cli import MISTAKES
from runner.config.argument_ranges import RANGES
from runner.config.conf import conf_dir
from runner.config.explain import explain
from runner.job.build import check

AVERAGE = "must be at least 0 and below 1"
NOT_NEGATIVE = "must be at least 0 and finite"
# Overrides, the last of which is refused, and the rule.
MISTAKEN = [
    ("optimizer.b1=2", AVERAGE),
    ("optimizer.b1=1", AVERAGE),
    ("optimizer.b1=nan", AVERAGE),
    ("optimizer.b1=inf", AVERAGE),
    ("optimizer.b2=-0.1", AVERAGE),
    ("optimizer.eps=-1", NOT_NEGATIVE),
    ("optimizer.eps=inf", NOT_NEGATIVE),
    ("optimizer.eps_root=-1", NOT_NEGATIVE),
    ("optimizer.mu_dtype=int32", "floating-point"),
    ("optimizer=sgd optimizer.momentum=2", AVERAGE),
    ("optimizer=sgd optimizer.accumulator_dtype=bool", "floating-point"),
    ("optimizer=adamw optimizer.weight_decay=-1", NOT_NEGATIVE),
    ("optimizer=adamw optimizer.weight_decay=nan", NOT_NEGATIVE),
    ("optimizer=adamw optimizer.mask=foo", "must be true, false, null or a function"),
    ("optimizer=adadelta optimizer.rho=2", AVERAGE),
    ("optimizer=sam optimizer.rho=-1", NOT_NEGATIVE),
    ("optimizer=adafactor optimizer.decay_rate=2", AVERAGE),
    ("optimizer=adafactor optimizer.clipping_threshold=0", "must be greater than 0"),
    ("optimizer=adafactor optimizer.min_dim_size_to_factor=0", "must be at least 1"),
    ("optimizer=prodigy optimizer.betas=[2,3]", "must be, each item at least 0"),
    ("optimizer=prodigy optimizer.estim_lr0=0", "must be greater than 0"),
    ("optimizer=muon optimizer.ns_steps=0", "must be at least 1"),
    ("optimizer=muon optimizer.ns_coeffs=[1,2,nan]", "a finite number"),
    ("optimizer=galore optimizer.update_proj_gap=0", "must be at least 1"),
    ("optimizer=lbfgs optimizer.linesearch.max_linesearch_steps=0", "at least 1"),
    ("optimizer=noisy_sgd optimizer.key=-1", "must be from 0"),
    ("optimizer=rprop optimizer.eta_minus=2", "must be between 0 and 1"),
    ("optimizer=rprop optimizer.eta_plus=0.5", "must be greater than 1"),
    ("optimizer=optimistic_adam_v2 optimizer.beta=nan", "must be a finite number"),
    ("optimizer=schedule_free_sgd optimizer.warmup_steps=-1", NOT_NEGATIVE),
    ("schedule=exponential schedule.transition_steps=0", "must be at least 1"),
    ("schedule=polynomial schedule.power=-1", "must be greater than 0"),
    ("schedule=cosine schedule.exponent=-1", "must be greater than 0"),
    ("schedule=cosine schedule.alpha=-1", NOT_NEGATIVE),
    ("schedule=cosine_onecycle schedule.pct_start=2", "must be from 0 to 1"),
    ("schedule=cosine_onecycle schedule.div_factor=0", "must be greater than 0"),
    ("schedule=linear_onecycle schedule.pct_final=-1", "must be from 0 to 1"),
    ("schedule=warmup_stable_decay schedule.decay_steps=-1", NOT_NEGATIVE),
    ("schedule=reduce_on_plateau schedule.min_scale=2", "must be from 0 to 1"),
    ("schedule=reduce_on_plateau schedule@schedule.base=cosine schedule.base.alpha=-1",
     NOT_NEGATIVE),
    ("model=cnn model.norm_momentum=2", AVERAGE),
    ("data=linear_ae data.noise=nan", NOT_NEGATIVE),
    ("data=linear_ae data.data_seed=-1", "must be from 0"),
    ("data.device_limit_mb=-1", NOT_NEGATIVE),
    ("train.debug_nans=2", "must be true or false"),
    ("train.debug_nans='2'", "must be true or false"),
    ("train.profile=-1", "must be true or false"),
    ("verify=2", "must be true or false"),
    ("checkpoint.best=3", "must be true or false"),
    ("train.stop.value=nan", "must be a number, or null"),
    ("train.steps=2147483647", "must be at least 1 and at most 1000000000"),
    ("train.clip_global_norm=nan", "must be greater than 0, or null"),
    ("train.ema_decay=nan", "must be between 0 and 1, or null"),
    ("checkpoint.every_minutes=nan", "must be greater than 0, or null"),
    ("checkpoint.every_steps=0", "must be at least 1, or null"),
    ("checkpoint.keep=0", "must be at least 1"),
    ("distributed.num_processes=0", "must be at least 1, or null"),
    ("distributed.process_id=-1", "must be at least 0, or null"),
    ("distributed.timeout_seconds=0", "must be at least 1"),
    ("wandb.project=a/b", "none of them any of"),
    ("cluster.memory=foo", "a number with K, M, G or T"),
    ("cluster.time=soon", "must be a number of minutes"),
    ("cluster.max_tasks=1001", "must be from 1 to 1000"),
    ("seeds.order=-1", "must be from 0 to"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "rule"), MISTAKEN, ids=lambda p: str(p))
def test_a_value_out_of_range_is_one_message(composed, overrides, rule):
    key, _, value = overrides.split()[-1].partition("=")
    with pytest.raises(MISTAKES) as caught:
        check(composed(*overrides.split()))
    told = explain(caught.value)
    assert told.startswith(f"{key}=") and value[1:2] in told and rule in told, told
    assert "\n" not in told and len(told) < 300


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_an_optimizer_has_a_range(name):
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"optimizer/{name}.yaml"))
    numbers = {k for k, v in node.items() if type(v) in (int, float)}
    assert numbers - {"learning_rate"} <= set(RANGES["optimizer"])


@pytest.mark.parametrize("value", ["0", "1", "true", "off"])
def test_what_yaml_and_people_call_true_or_false_is_taken(composed, value):
    assert composed(f"train.profile={value}").train.profile is (value in ("1", "true"))
