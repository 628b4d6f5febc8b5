"""The trackers that a run is mirrored to."""

import contextlib
import importlib.util
import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.config.instantiate import check_targets, target
from runner.config.rank import rank
from runner.errors import ConfigError
from runner.record.mirrors import helper
from runner.record.mirrors.follow import Spec
from runner.record.mirrors.tracker import Tracker


def trackers_of(cfg: DictConfig) -> dict[str, Spec]:
    """The trackers in `cfg`: `_target_` and arguments of each, by its name.

    Raises:
      ConfigError: one isn't a tracker, gets an argument that it doesn't take, or needs
        a package that isn't installed.
    """
    found = {}
    for name in cfg.tracker:
        key = f"tracker.{name}"
        if cfg.tracker[name] is None:
            continue
        check_targets(cfg, [key])
        made: Any = target(cfg, key).func
        text = cfg.tracker[name]._target_
        if not (inspect.isclass(made) and issubclass(made, Tracker)):
            raise ConfigError(
                f"{key}._target_={text} must be a class derived from "
                "runner.record.mirrors.tracker.Tracker"
            )
        if made.package and not importlib.util.find_spec(made.package.split(".")[0]):
            ours = made.__module__.startswith("runner.")
            wanted = f"'jax-experiment-runner[{name}]'" if ours else made.package
            raise ConfigError(
                f"tracker={name} needs the package {made.package}: pip install {wanted}"
            )
        found[name] = OmegaConf.to_container(cfg.tracker[name], resolve=True)
    return found


def begin_mirroring(cfg: DictConfig, runs: int = 1) -> None:
    """Start what mirrors a run, or as many jobs like it, before the rest is imported.

    Flax and optax take half a second of one core, and what trackers import takes one
    of another. What is wrong with `cfg`, `prepare` says, in the folder of the run or
    the job.
    """
    with contextlib.suppress(Exception):
        # A sweep is one process, and need not import JAX to know its rank.
        if cfg.print is None and (runs > 1 or rank(cfg.distributed).process == 0):
            mode = {"wandb": {"mode": cfg.wandb.mode}}
            helper.prepare(trackers_of(cfg), mode, runs)
