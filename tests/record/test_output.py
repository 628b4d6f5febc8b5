"""A command or a run whose reader has gone ends as it would have."""

import inspect
import io
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from helpers.forked import python
from helpers.signalled import status, wait_until_handled
from runner import __main__ as program
from runner.record.output import outlive_readers

TINY = (
    "framework=jax", "model.hidden_sizes=[8]", "train.epochs=3", "mesh=single",
    "wandb=disabled", "hydra.run.dir=run",
)  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`python ARGUMENTS`, with a pipe that nobody reads for all that it prints."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, stdout=write, stderr=write
        )
    finally:
        os.close(write)


@pytest.fixture
def tiny(folders):
    data = f"data.data_dir={folders['data']}"
    return [*TINY, data, f"compilation_cache={folders['xla']}"]


@pytest.mark.parametrize("name", [*program.COMMANDS.values(), "runner.__main__"])
def test_each_command_outlives_its_reader(name):
    source = inspect.getsource(import_module(name))
    assert 'if __name__ == "__main__":\n    outlive_readers()\n' in source


def test_a_page_is_written_for_a_pipe_that_is_closed(tmp_path, tiny):
    assert python("-m", "runner", *tiny, cwd=tmp_path).returncode == 0
    page = tmp_path / "compare" / "report.html"
    for command in (["runner", "compare"], ["runner.compare"]):
        for unbuffered in ([], ["-u"]):
            given = [*unbuffered, "-m", *command, "run"]
            assert start(tmp_path, *given).wait(60) == 0, given
            page.unlink()


def test_a_run_trains_to_its_end(tmp_path, tiny):
    assert start(tmp_path, "-m", "runner", *tiny).wait(60) == 0
    assert status(tmp_path / "run") == "finished"


def test_a_run_ends_by_a_signal(tmp_path, tiny):
    process = start(tmp_path, "-m", "runner", *tiny, "train.epochs=100000")
    wait_until_handled(process)
    while "metrics" not in str(sorted((tmp_path / "run").glob("*"))):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75


# `sys.argv[1]` becomes the terminal of this process, whose session has none.
ON_A_TERMINAL = """
import os, signal, sys
name, handler, *command = sys.argv[1:]
signal.signal(signal.SIGHUP, getattr(signal, handler))
terminal = os.open(name, os.O_RDWR)
for number in range(3):
    os.dup2(terminal, number)
os.execv(command[0], command)
"""


@pytest.mark.parametrize(
    ("handler", "epochs", "code", "ending"),
    [
        ("SIG_DFL", 100_000, 75, "preempted"),
        ("SIG_IGN", 50, 0, "finished"),  # as `nohup` has it
    ],
)
def test_a_terminal_that_is_closed_ends_a_run_as_sigterm_does(
    tmp_path, tiny, handler, epochs, code, ending
):
    terminal, its_end = os.openpty()
    command = [sys.executable, "-m", "runner", *tiny, f"train.epochs={epochs}"]
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, os.ttyname(its_end), handler, *command],
        cwd=tmp_path,
        start_new_session=True,
    )
    rows = tmp_path / "run" / "metrics.jsonl"
    while not (rows.exists() and rows.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    os.close(its_end)
    os.close(terminal)
    assert process.wait(60) == code
    assert status(tmp_path / "run") == ending
    assert (ending == "finished") or list((tmp_path / "run/checkpoints").glob("*"))


def test_what_is_printed_to_a_closed_stream_is_nothing(tmp_path, tiny):
    command = [sys.executable, "-m", "runner", *tiny, "print=config"]
    close = 'exec 1>&-; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", close, "sh", *command],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_streams_that_are_not_the_process_own_stay(monkeypatch):
    given = io.TextIOWrapper(io.BytesIO())  # as pytest's capsys and notebooks give
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, given)
    outlive_readers()
    assert sys.stdout is sys.stderr is given


def test_a_stream_keeps_its_name():
    code = (
        "import sys; from runner.record.output import outlive_readers; "
        "outlive_readers(); print(sys.stdout.name, sys.stderr.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "<stdout> <stderr>\n"
