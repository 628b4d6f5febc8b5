"""Secrets planted in every place that a command line has, and searched for in files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def told(folders, tmp_path_factory):
    """A folder with a run, a failed run and a sweep, and what the terminal showed."""
    root = tmp_path_factory.mktemp("secrets")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env |= {"PYTHONPATH": f"{env.get('PYTHONPATH', '')}:{Path(__file__).parents[1]}"}
    env |= {"LAB_SESSION": SESSION}
    shown, swept = [], "+data.auth=planted-16-swept"
    for arguments, status in (
        (["hydra.run.dir=run", swept], 0),
        (["hydra.run.dir=failed", "wandb=disabled", swept, "+data.fails=true"], 1),
        (["-m", "hydra.sweep.dir=sweep", "wandb=disabled", f"{swept},b"], 0),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "runner", *arguments, *OVERRIDES]
            + [f"compilation_cache={folders['xla']}"],
            cwd=root,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
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
    assert "no access to https://me:<redacted>@host/x" in (
        (told / "failed" / "error.txt").read_text()
    )
