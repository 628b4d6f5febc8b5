"""A command line, composed and checked in this process as far as the data decide it."""

import argparse
import contextlib
import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from helpers.pages import ROOT
from hydra_plugins.packed_launcher import PackedLauncher
from runner.__main__ import COMMANDS
from runner.config.hydra_job import facts
from runner.config.whole_sweep import leave_to_jobs
from runner.job.check import check
from runner.library import _hydra
from runner.sweep.compose import Composer

# The arguments of our commands that hold overrides, among others.
HOLDING = ("overrides", "items", "data")
OVERRIDE = re.compile(r"[+~]*[\w@/.]+=.*", re.DOTALL)
MOST = 2  # jobs of one sweep that are composed: what they choose repeats itself


class Composed(Exception):
    """Instead of training."""


def compose_command(command: str, monkeypatch) -> int:
    """Compose what `command` runs; returns how many configurations it has.

    Raises:
      what the command itself would, and AssertionError if it is no command of ours.
    """
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:2] == ["python", "-m"]:
        module, arguments = words[2], words[3:]
    elif words[0] == "runner":
        module, arguments = "runner", words[1:]
    else:
        assert words[0] == "python", f"{command}: a program that no test knows"
        return _script(ROOT / words[1], words[2:])
    if module == "runner" and arguments and arguments[0] in COMMANDS:
        module, arguments = COMMANDS[arguments[0]], arguments[1:]
    if module == "runner":
        return _train(arguments, monkeypatch)
    return _other(module, arguments, monkeypatch)


def _train(arguments: Sequence[str], monkeypatch) -> int:
    given = get_args_parser().parse_args(arguments)
    GlobalHydra.instance().clear()
    found: list[DictConfig] = []

    def launch(self, overrides, initial_job_idx):
        composer = Composer(self.hydra_context.config_loader, self.config)
        some = overrides[:: -(-len(overrides) // MOST)]
        found.extend(composer.compose(job) for job in some)
        raise Composed

    monkeypatch.setattr(PackedLauncher, "launch", launch)
    with _hydra(given.overrides, given.config_dir) as (hydra, overrides):
        # Optuna's sweeper draws values for its jobs, which need results.
        if given.multirun and "sweep=optuna" not in overrides:
            leave_to_jobs()
            with contextlib.suppress(Composed):
                hydra.multirun("config", lambda cfg: None, overrides)
        else:
            mode = RunMode.MULTIRUN if given.multirun else RunMode.RUN
            found.append(hydra.compose_config("config", overrides, mode))
    for cfg in found:
        facts(cfg, cfg.hydra, Path("run"), sweep=None)
        with open_dict(cfg):
            del cfg["hydra"]
        assert (cfg.train.epochs is None) != (cfg.train.steps is None)
        check(cfg)
    return len(found)


def _other(module: str, arguments: Sequence[str], monkeypatch) -> int:
    name = module if module in COMMANDS.values() else f"{module}.__main__"
    given = {}
    parse = argparse.ArgumentParser.parse_intermixed_args

    def parse_args(self, args=None, namespace=None):
        given.update(vars(parse(self, args, namespace)))
        raise Composed

    with monkeypatch.context() as patch, contextlib.suppress(Composed):
        for way in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, way, parse_args)
        importlib.import_module(name).main(arguments)
    words = [word for key in HOLDING for word in given.get(key) or ()]
    overrides = [word for word in words if OVERRIDE.fullmatch(word)]
    if given.get("config_dir"):
        overrides += ["--config-dir", str(given["config_dir"])]
    return _train(overrides, monkeypatch) if overrides else 0


def _script(path: Path, arguments: Sequence[str]) -> int:
    text = path.read_text()
    for option in arguments:
        assert option[:2] != "--" or f'"{option}"' in text, f"{path}: {option}"
    return 0
