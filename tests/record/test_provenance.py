import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from runner.record.provenance import code, git_state, provenance


@pytest.fixture(autouse=True)
def own_git(monkeypatch, tmp_path):
    """Git without the user's settings, and blind to a repository around tmp_path."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *who, *arguments]
    return subprocess.check_output(command, cwd=folder, text=True).strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_state(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "untracked").write_text("1")
    assert git_state(tmp_path / "outputs") == {"commit": commit, "dirty": False}
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


@pytest.mark.parametrize("git_script", [None, "exec sleep 60", "exit 1"])
def test_git_that_is_missing_or_hangs_or_fails(tmp_path, monkeypatch, git_script):
    monkeypatch.setattr("runner.record.provenance._GIT_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin" if git_script else "")
    if git_script:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{git_script}\n")
        (tmp_path / "git").chmod(0o755)
    assert git_state(tmp_path) is None


def test_provenance(tmp_path):
    facts = provenance(
        code(tmp_path),
        backend="cpu",
        devices=["cpu", "cpu"],
        program_key="abc",
        argv=["runner", "+api_key=hunter2", "lr=0.1"],
    )
    assert facts["command"] == ["runner", "+api_key=<redacted>", "lr=0.1"]
    assert facts["git"] is None
    assert facts["packages"]["wandb"] == version("wandb")
    assert facts["devices"] == ["cpu", "cpu"] and facts["device_count"] == 2
    assert datetime.fromisoformat(facts["started"]).utcoffset() is not None
    json.dumps(facts, allow_nan=False)


def test_package_that_is_missing_is_null(tmp_path, monkeypatch):
    monkeypatch.setattr("runner.record.provenance.PACKAGES", ("no-such-package",))
    assert code(tmp_path)["packages"] == {"no-such-package": None}


def test_the_record_imports_nothing_heavy():
    modules = "files provenance secrets terminal recorder mirrors.wandb".split()
    imports = "; ".join(f"import runner.record.{name}" for name in modules)
    check = "import sys; print({'jax','wandb','rich','numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", f"{imports}; {check}"]
    assert subprocess.check_output(command, text=True).strip() == "set()"
