"""Commands of docs/ and examples/ that are run in this process, shortened."""

import importlib
import shlex
import sys
from collections.abc import Callable, Sequence

import pytest

from runner import __main__ as program
from runner import library

# Of a run that is shortened: lengths, and what is the same for all of them.
SHORT = (
    "train.epochs=null", "train.eval_every_steps=2",
    "train.log_every_steps=1", "verify=false", "wandb=disabled", "mesh=single",
)  # fmt: skip


def is_runner(line: str) -> bool:
    return " -m runner" in line


def arguments(line: str) -> list[str]:
    """What follows `python -m runner` in a command, as the shell splits it."""
    return shlex.split(line.partition(" -m runner")[2])


def in_process(given: Sequence[str], shorten: Callable[[list[str]], list[str]]) -> None:
    """Do what `python -m runner` with these arguments does.

    Args:
      shorten: applied to the overrides of a run or a sweep.

    Raises:
      what the runs raise, and AssertionError for an exit status.
    """
    if given[0] in program.COMMANDS:
        module = importlib.import_module(program.COMMANDS[given[0]])
        with pytest.MonkeyPatch.context() as patch:
            # The page of a comparison takes seconds, and has tests of its own.
            quick = ["--no-report"] * (given[0] == "compare")
            patch.setattr(sys, "argv", ["runner", *given[1:], *quick])
            assert not module.main()
        return
    overrides, config_dir = [*given], None
    if overrides[0] == "--config-dir":
        config_dir, overrides = overrides[1], overrides[2:]
    if overrides[0] == "-m":
        library.run_sweep(shorten(overrides[1:]), config_dir=config_dir)
    else:
        library.run(shorten(overrides), config_dir=config_dir)
