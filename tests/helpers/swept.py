"""`python -m runner -m`, as a person runs it, and what it leaves in its folder."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import logging as absl_logging

from helpers.forked import python
from runner import cli
from runner.record.files import read_metrics

TINY = (
    "debug=tiny", "framework=jax", "model.hidden_sizes=[8]", "mesh=single",
    "verify=false",
)  # fmt: skip


@pytest.fixture
def command(folders):
    """The arguments of `python` for a sweep, into a folder if one is named."""

    def command(*arguments: str, folder: str | None = "sweep") -> list[str]:
        into = [f"hydra.sweep.dir={folder}"] if folder else []
        return [
            "-m", "runner", "-m", *arguments, *TINY, *into,
            f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}",
        ]  # fmt: skip

    return command


@pytest.fixture
def start(command, tmp_path):
    """Start the program in a folder of its own."""

    def start(*arguments: str, **options) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *command(*arguments, **options)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


@pytest.fixture
def run(command, tmp_path):
    """Run the program to its end: exit status and what it said."""

    def run(*arguments: str, **options) -> tuple[int, str]:
        done = python(*command(*arguments, **options), cwd=tmp_path, env=os.environ)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def main(folders, tmp_path, monkeypatch):
    """The program in this process, with no program compiled so far."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which main changes
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def main(*arguments: str, folder: str = ".") -> None:
        monkeypatch.setattr(
            "sys.argv",
            ["runner", "-m", *TINY, f"hydra.sweep.dir={tmp_path / folder}", *arguments,
             f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}"],
        )  # fmt: skip
        cli.main()

    yield main
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def here(main, monkeypatch):
    """As `run`, but in this process, which needs no seconds to start."""
    # When Hydra configures logging, absl closes the stderr that it began with.
    monkeypatch.setattr(absl_logging.PythonHandler, "close", logging.Handler.close)

    def here(*arguments: str, folder: str = "sweep") -> tuple[int, str]:
        said, status = io.StringIO(), 0
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                main(*arguments, folder=folder)
            except SystemExit as ended:
                status = 1
                said.write(str(ended.code))
        return status, said.getvalue()

    return here


def ledger(folder: Path) -> dict[str, dict]:
    """The jobs of a sweep.json, by name."""
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"].values()
    return {job["name"]: job for job in jobs}


def states(folder: Path) -> dict[str, int]:
    found = [job["state"] for job in ledger(folder).values()]
    return {state: found.count(state) for state in set(found)}


def rows(folder: Path) -> dict[str, list[dict]]:
    """The metrics of every job, without the timings."""
    found = {}
    for path in folder.glob("*/metrics.jsonl"):
        found[path.parent.name] = read_metrics(path)
        for row in found[path.parent.name]:
            del row["time/steps_per_second"]
    return found


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())
