import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import flax
import jax
import pytest

from runner.record.code import Code, git_state
from runner.record.provenance import (
    _JAX_OPTIONS,
    PACKAGES,
    affects,
    command_line,
    provenance,
)
from runner.record.secrets import scrub
from runner.settings import PROGRAM


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
    monkeypatch.setattr("runner.record.code._GIT_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin" if git_script else "")
    if git_script:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{git_script}\n")
        (tmp_path / "git").chmod(0o755)
    assert git_state(tmp_path) is None


def facts(folder: Path) -> dict:
    return provenance(Code(folder, PACKAGES).facts(), 2, program_key="abc", choice={})


def test_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["runner", "+api_key=hunter2", "lr=0.1"])
    found = facts(tmp_path)
    assert found["command"] == ["runner", "+api_key=<redacted>", "lr=0.1"]
    assert found["git"] is None
    assert found["packages"]["wandb"] == version("wandb")
    assert found["packages"]["pytest"] == version("pytest")  # it is loaded
    assert __name__ in found["module_digests"]
    assert found["devices"] == ["cpu", "cpu"] and found["device_count"] == 2
    assert datetime.fromisoformat(found["started"]).utcoffset() is not None
    json.dumps(found, allow_nan=False)


def test_what_of_the_environment_changes_numbers_is_recorded(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("JAX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAX_SOME_TOKEN", "hunter2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_x=true")
    monkeypatch.setenv("HOME_OF_MINE", "no")
    with jax.enable_x64(True):
        found = facts(tmp_path)
    assert found["xla_flags"] == "--xla_x=true"
    options = {name: str(getattr(jax.config, name)) for name in _JAX_OPTIONS}
    assert found["environment"] == options | {
        "NVIDIA_TF32_OVERRIDE": "0",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NCCL_ALGO": "Ring",
        "JAX_ENABLE_X64": "1",
        "JAX_SOME_TOKEN": "<redacted>",
        "jax_enable_x64": "True",
    }
    assert affects("environment.JAX_ENABLE_X64") & PROGRAM
    assert not affects("environment.JAX_COMPILATION_CACHE_DIR") & PROGRAM


def test_the_cpus_are_those_that_xla_has_threads_for(tmp_path, monkeypatch):
    """A convolution's sums, and so its last bits, depend on them."""
    for name in ("PJRT_NPROC", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8})
        assert facts(tmp_path)["cpu_count"] == 3
    monkeypatch.setenv("NPROC", "7")
    assert facts(tmp_path)["cpu_count"] == 7
    monkeypatch.setenv("PJRT_NPROC", "1")
    assert facts(tmp_path)["cpu_count"] == 1
    monkeypatch.setenv("PJRT_NPROC", "many")  # which XLA ignores
    assert facts(tmp_path)["cpu_count"] == 7


@pytest.mark.parametrize(
    ("library", "name", "value"),
    [
        (jax, "jax_random_seed_offset", 5),
        (jax, "jax_softmax_custom_jvp", True),
        (flax, "flax_fix_rng_separator", True),
    ],
)
def test_an_option_is_recorded_where_it_is_unusual(tmp_path, library, name, value):
    before = getattr(library.config, name)
    assert name not in facts(tmp_path)["environment"]  # as in earlier records
    library.config.update(name, value)
    try:
        assert facts(tmp_path)["environment"][name] == str(value)
    finally:
        library.config.update(name, before)


def test_digests_arent_taken_for_secrets():
    digests = {
        "data_digest": {"train": {"token": "ab"}},
        "module_digests": {"key": "a"},
    }
    assert scrub(digests | {"token": "ab"}) == digests | {"token": "<redacted>"}


def test_package_that_is_missing_is_null(tmp_path):
    packages = Code(tmp_path, ["no-such-package"]).facts()["packages"]
    assert packages["no-such-package"] is None


def test_runners_own_files_are_recorded_where_no_version_says_what_they_hold(
    tmp_path, monkeypatch
):
    own = tmp_path / "src" / "runner" / "a.py"
    own.parent.mkdir(parents=True)
    own.write_text("1")
    monkeypatch.setattr("runner.record.code._ROOT", tmp_path)
    assert Code(tmp_path, ()).facts()["runner_files"] is None
    (tmp_path / "pyproject.toml").touch()
    before = Code(tmp_path, ()).facts()["runner_files"]
    own.write_text("2")
    assert before not in (None, Code(tmp_path, ()).facts()["runner_files"])


def test_the_record_imports_nothing_heavy():
    modules = "files provenance code secrets terminal recorder mirrors.wandb".split()
    imports = "; ".join(f"import runner.record.{name}" for name in modules)
    check = "import sys; print({'jax','wandb','rich','numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", f"{imports}; {check}"]
    assert subprocess.check_output(command, text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["/a/src/runner/__main__.py", "-m", "seed=0,1"],
         "python -m runner -m seed=0,1"),
        (["/runner/src/runner/audit/__main__.py", "a b.yaml"],
         "python -m runner.audit 'a b.yaml'"),
        (["/usr/bin/runner", "optimizer=adam"], "runner optimizer=adam"),
        (["/x/ipykernel_launcher.py", "-f", "k"], "ipykernel_launcher.py -f k"),
        (["/x/__main__.py"], "__main__.py"),
        ([""], ""),
        (["/usr/bin/runner", "--api-key", "hunter2!"],
         "runner --api-key '<redacted>'"),
    ],
)  # fmt: skip
def test_the_command_is_the_one_that_was_given(monkeypatch, argv, line):
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == (line or "''")
