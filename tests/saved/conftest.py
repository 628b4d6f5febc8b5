"""Saved runs, trained once."""

import shutil
from pathlib import Path

import pytest

from helpers.saved_runs import RUNS
from runner.record import checksums

TRAINED: dict[str, Path] = {}


@pytest.fixture
def trained(ran, tmp_path_factory):
    """The folder of a run, which no test changes."""

    def trained(name: str = "jax") -> Path:
        if name not in TRAINED:
            TRAINED[name] = tmp_path_factory.mktemp("saved") / "run"
            ran(TRAINED[name], *RUNS[name])
        return TRAINED[name]

    return trained


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of a run, without the checksums that would show what a test does."""

    def copied(name: str = "jax") -> Path:
        ignored = shutil.ignore_patterns(checksums.FILE)
        return Path(shutil.copytree(trained(name), tmp_path / "copy", ignore=ignored))

    return copied
