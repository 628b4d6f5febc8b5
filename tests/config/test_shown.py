"""`--cfg job --resolve` shows what would run, and names what the data decide."""

import sys

import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig

from helpers.at_night import one_in
from runner.cli import main
from runner.config import shown
from runner.config.conf import conf_dir
from runner.config.hydra_job import HydraJob
from runner.config.shown import PENDING
from runner.job.run import run_job


@pytest.fixture
def printed(monkeypatch, tmp_path, capsys):
    """What a command prints as YAML; it ends without an error."""

    def printed(*arguments: str):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["runner", *arguments])
        monkeypatch.setattr(Hydra, "show_cfg", shown._show_cfg)
        HydraConfig.instance().cfg = None
        main()
        assert not list(tmp_path.iterdir())
        return yaml.safe_load(capsys.readouterr().out)

    return printed


def test_what_the_data_decide_is_pending_until_it_is_given(printed):
    job = printed("--cfg", "job", "--resolve", "schedule=warmup_cosine")
    assert job["train"]["epochs"] == 20
    assert job["train"]["steps"] == job["train"]["eval_every_steps"] == PENDING
    assert job["schedule"]["decay_steps"] == job["schedule"]["warmup_steps"] == PENDING
    assert job["schedule"]["peak_value"] == 0.001
    given = "train.steps=200", "schedule=warmup_cosine"
    job = printed("--cfg", "job", "--resolve", *given)
    assert job["train"]["epochs"] is None and job["train"]["steps"] == 200
    assert job["train"]["steps_per_epoch"] == PENDING
    assert job["schedule"]["decay_steps"] == 200
    assert 1 <= job["schedule"]["warmup_steps"] < 200


def choices():
    """Those whose files refer to lengths, with which Hydra's own could not deal."""
    for path in sorted(conf_dir().rglob("*.yaml")):
        group = path.relative_to(conf_dir()).with_suffix("")
        if len(group.parts) > 1 and "${train.s" in path.read_text("utf-8"):
            yield f"{group.parts[0]}={'/'.join(group.parts[1:])}"


@pytest.mark.parametrize(
    "choice", [*one_in(3, [*choices()]), "data=text", "experiment=adam_vs_sgd"]
)
def test_every_choice_is_shown(printed, choice):
    job = printed("--cfg", "job", "--resolve", choice)
    assert "${" not in str(job) and "hydra" not in job


@pytest.mark.parametrize(
    ("package", "value"),
    [("train.epochs", 20), ("train.steps", PENDING), ("seeds.init", None)],
)
def test_a_part_is_shown(printed, package, value):
    assert printed("--cfg", "job", "--resolve", "-p", package) == (value or "None")


def test_a_section_is_shown(printed):
    part = printed("--cfg", "job", "--resolve", "--package", "optimizer")
    assert part["_target_"] == "optax.adam" and part["learning_rate"] == 0.001


def test_what_would_run_is_printed_and_nothing_trained(composed, tmp_path, capsys):
    cfg = composed("print=config", "schedule=warmup_cosine", "train.epochs=2")
    made = tmp_path / "made by Hydra"
    made.mkdir()
    run_job(cfg, HydraJob(made, {}, [], None))
    job = yaml.safe_load(capsys.readouterr().out)
    assert job["print"] is None and job["optimizer"]["_target_"] == "optax.adam"
    steps = job["train"]["steps"]
    assert steps == 2 * job["train"]["steps_per_epoch"]
    assert steps == job["schedule"]["decay_steps"]
    assert job["train"]["convolution"] == "native"
    assert not list(tmp_path.iterdir())


def test_a_secret_is_not_shown(printed, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hunter2-hunter2")
    job = printed("--cfg", "job", "--resolve", "+model.api_key=${oc.env:MY_TOKEN}")
    assert "hunter2" not in str(job)
