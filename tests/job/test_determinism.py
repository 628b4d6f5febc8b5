"""The flag of XLA for repeatable bits on a GPU: set in time, or said to be late."""

import os
import subprocess
import sys

import jax
import pytest
from jax._src import xla_bridge

from helpers.command_line import run, sweep
from helpers.resuming import record
from runner.errors import ConfigError
from runner.job import determinism
from runner.job.determinism import FLAG
from runner.replay.__main__ import main as replay

OWN = "--xla_cpu_enable_fast_math=false"


@pytest.fixture
def environment(monkeypatch):
    """Sets XLA_FLAGS, and says whether JAX has started and on what."""

    def environment(flags: str, started: bool = False, backend: str = "cpu") -> None:
        monkeypatch.setenv("XLA_FLAGS", flags)
        monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: started)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)

    return environment


def flags_after(deterministic: bool) -> str:
    determinism.set_up(deterministic)
    return os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("deterministic, value", [(True, "true"), (False, "false")])
def test_the_flag_is_added_once(environment, deterministic, value):
    environment(OWN)
    assert flags_after(deterministic) == f"{OWN} {FLAG}={value}"
    assert flags_after(deterministic) == f"{OWN} {FLAG}={value}"
    with pytest.raises(ConfigError, match=f"deterministic=.*XLA_FLAGS has {FLAG}"):
        determinism.set_up(not deterministic)


@pytest.mark.parametrize("given", ["", "=1", "=True", "=false {flag}=true"])
def test_what_the_user_has_set_stays(environment, given):
    flags = f"{FLAG}{given.format(flag=FLAG)} {OWN}"
    environment(flags, started=True, backend="gpu")
    assert flags_after(True) == flags


def test_flags_in_a_file_stay(environment, tmp_path):
    (tmp_path / "flags").write_text(f"{OWN}\n")
    environment(str(tmp_path / "flags"))
    assert flags_after(True) == f"{OWN} {FLAG}=true"
    environment(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="neither flags nor a file"):
        determinism.set_up(True)


def test_too_late_is_a_warning_where_it_matters(environment, capsys):
    environment(OWN, started=True, backend="gpu")
    assert flags_after(True) == OWN  # which is recorded
    assert "deterministic=true comes too late" in capsys.readouterr().err
    environment(OWN, started=True, backend="cpu")
    assert flags_after(True) == f"{OWN} {FLAG}=true"
    assert capsys.readouterr().err == ""


def test_importing_what_trains_starts_no_backend():
    code = (
        "import runner.job.run, runner.sweep.population, runner.replay.again\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done


def test_it_is_recorded_and_replayed(tmp_path, folders, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", OWN)
    done = run(
        tmp_path, "deterministic=false", "data=linear_ae", "model=linear_autoencoder",
        "train.epochs=null", "train.steps=4", "wandb=disabled", "verify=false",
        "framework=jax",
        f"compilation_cache={folders['xla']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    flags = f"{OWN} {FLAG}=false"
    assert record(tmp_path / "run", "provenance")["xla_flags"] == flags
    assert record(tmp_path / "run", "config")["deterministic"] is False
    # JAX has started in this process, on a CPU, so that only the flag is looked at.
    assert replay([str(tmp_path / "run"), "--allow-rounding"]) == 0
    assert os.environ["XLA_FLAGS"] == flags
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=true")
    assert replay([str(tmp_path / "run")]) == 1
    assert "deterministic=false, but XLA_FLAGS has" in capsys.readouterr().err


def test_it_cant_be_swept(tmp_path):
    done = sweep(tmp_path, "deterministic=true,false", "debug=tiny")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: deterministic must be the same for all jobs")
