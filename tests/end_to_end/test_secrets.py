"""Secrets planted in every place that a command line has, and searched for in files."""

import json
import os
from pathlib import Path

import pytest

from helpers.forked import python
from runner.cluster.handed_over import refuse_secrets
from runner.config.hydra_files import plain
from runner.errors import ConfigError

SESSION = "planted-07-in-the-environment"
PLANTED = (
    "planted-01-key",
    "planted02",
    "planted-03-in-a-list",
    "planted-04-nested",
    "planted-05-in-a-list-of-mappings",
    "planted-06-in@a-url",
    SESSION,
    "ghp_planted08aaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "planted-09-in-notes",
    "planted-10-after-a-flag",
    "sk-planted-11-in-a-tag-0123456789",
    "eyJwbGFudGVkMTIiOjF9.eyJwbGFudGVkMTIiOjF9.planted12",
    "planted13InAPemBlock",
    "AKIAPLANTED14AAAAAAA",
    "c0ffee0000000000000000000000000000000015",
    "planted-16-swept",
)
OVERRIDES = (
    "train.steps=4",
    "train.eval_every_steps=4",
    "train.log_every_steps=1",
    "data=linear_ae",
    *(f"~data.{name}" for name in ("num_validation", "num_test", "input_size")),
    *(f"~data.{name}" for name in ("rank", "noise", "data_seed", "mode")),
    "data._target_=helpers.user_targets.behind_a_login",
    "data.num_train=256",
    "model=linear_autoencoder",
    "mesh=single",
    "verify=false",
    "framework=jax",
    "+data.lab_password=planted-01-key",
    "+data.passwd=planted02",
    "+data.api_keys=[planted-03-in-a-list]",
    "+data.credentials={user: bob, of: {pin: planted-04-nested}}",
    "+data.hosts=[{name: a, token: planted-05-in-a-list-of-mappings}]",
    "+data.endpoint='https://me:planted-06-in@a-url@host/x'",
    "+data.session=${oc.env:LAB_SESSION}",
    "+data.revision=ghp_planted08aaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "wandb.notes='password: planted-09-in-notes, run --token planted-10-after-a-flag'",
    "wandb.tags=[sk-planted-11-in-a-tag-0123456789]",
    "+data.header=eyJwbGFudGVkMTIiOjF9.eyJwbGFudGVkMTIiOjF9.planted12",
    "+data.cert='-----BEGIN PRIVATE KEY-----planted13InAPemBlock'",
    "+data.bucket=AKIAPLANTED14AAAAAAA",
    "wandb.job_type=c0ffee0000000000000000000000000000000015",
)
PEM = "-----BEGIN PRIVATE KEY-----"
# The environment of a command without them, and the overrides that name it.
VARIABLES = {
    f"LAB_{i}": f"{PEM}{value}" if "Pem" in value else value
    for i, value in enumerate(PLANTED)
}


def by_name(override: str) -> str:
    for name, value in VARIABLES.items():
        override = override.replace(value, f"${{oc.env:{name}}}")
    return override


@pytest.fixture(scope="module")
def told(folders, tmp_path_factory):
    """A folder with runs, some failed, and a sweep, and what the terminal showed."""
    root = tmp_path_factory.mktemp("secrets")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env |= {"PYTHONPATH": f"{env.get('PYTHONPATH', '')}:{Path(__file__).parents[1]}"}
    env |= {"LAB_SESSION": SESSION, **VARIABLES}
    shown, swept = [], "+data.auth=planted-16-swept"
    failed = ["wandb=disabled", swept, "+data.fails=true"]
    named = [by_name(o) for o in (*OVERRIDES, *failed) if "bob" not in o]
    for arguments, status in (
        (["hydra.run.dir=run", swept, *OVERRIDES], 0),
        (["hydra.run.dir=failed", *failed, *OVERRIDES], 1),
        (["-m", "hydra.sweep.dir=sweep", *failed[:1], f"{swept},b", *OVERRIDES], 0),
        (["hydra.run.dir=elsewhere", "cluster=local", *named], 1),
    ):
        cache = f"compilation_cache={folders['xla']}"
        done = python("-m", "runner", *arguments, cache, cwd=root, env=env)
        assert done.returncode == status, done.stderr
        shown.append(done.stderr)
    (root / "terminal").write_text("".join(shown))
    return root


@pytest.mark.parametrize("planted", PLANTED)
def test_a_secret_is_in_no_file_and_no_name_of_one(told, planted):
    for path in told.rglob("*"):
        assert planted not in path.name
        if path.is_file():
            assert planted.encode() not in path.read_bytes(), path


def test_what_is_no_secret_is_there(told):
    assert {path.name for path in told.iterdir()} >= {"run", "failed", "sweep"}
    config = json.loads((told / "run" / "config.json").read_text())
    assert config["data"]["session"] == "${oc.env:LAB_SESSION}"
    assert config["data"]["hosts"] == [{"name": "a", "token": "<redacted>"}]
    jobs = json.loads((told / "sweep" / "sweep.json").read_text())["jobs"].values()
    assert [job["state"] for job in jobs] == ["done", "done"]
    assert all((told / "sweep" / job["folder"]).is_dir() for job in jobs)
    (log,) = (told / "elsewhere" / "cluster" / "logs").glob("*_log.out")
    for said in (told / "failed" / "error.txt", log):
        assert "no access to https://me:<redacted>@host/x" in said.read_text()


@pytest.mark.parametrize("override", [o for o in OVERRIDES if by_name(o) != o])
def test_no_cluster_gets_one_in_a_file(composed, override):
    """Its tasks read their configuration from files."""
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=r"would be written to a file") as caught:
        refuse_secrets([], [["seed=1", override]])
    assert str(caught.value).startswith(f"{key}=")
    assert all(value not in str(caught.value) for value in VARIABLES.values())
    # However it came there.
    config = composed(override)
    with pytest.raises(ConfigError, match=r"would be written to a file"):
        refuse_secrets([plain(config)], [])
    if "bob" not in override:
        refuse_secrets([plain(composed())], [["seed=1", by_name(override)]])
