"""Hydra's facts about the job that it has just composed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.conf import one_length

_PATHS = ("checkpoint.resume", "compilation_cache", "data.data_dir", "data.manual_dir")
# Arguments of data=text and data=table that are paths, unless they are these words.
_OF_OWN_FILES = ("path", "validation", "test", "vocabulary", "splits")
_WORDS = ("bytes", "characters")


class HydraJob(NamedTuple):
    """A composed job, apart from its configuration.

    Attributes:
      folder: the run folder.
      choices: the name chosen in each config group.
      overrides: its command line, as recorded.
      sweep: the name of the sweep that it belongs to, if any.
    """

    folder: Path
    choices: Mapping[str, str]
    overrides: Sequence[str]
    sweep: str | None


def hydra_job(cfg: DictConfig) -> HydraJob:
    """The job that Hydra has just composed as `cfg`.

    Of two lengths in `cfg`, the one that isn't on the command line is removed.
    """
    composed = HydraConfig.get()
    # As they were typed: an interpolation in one may name a secret.
    overrides = OmegaConf.to_container(composed.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    one_length(cfg, overrides)
    if composed.job.chdir:
        _from(Path(composed.runtime.cwd), cfg)
    in_sweep = composed.mode == RunMode.MULTIRUN
    return HydraJob(
        folder=Path(composed.runtime.output_dir),
        choices={
            group: choice
            for group, choice in composed.runtime.choices.items()
            # Without Hydra's own groups, and those of presets for Hydra's section.
            if not group.startswith("hydra/") and "@hydra." not in group
        },
        overrides=overrides,
        sweep=Path(composed.sweep.dir).name if in_sweep else None,
    )


def _from(folder: Path, cfg: DictConfig) -> None:
    """Let relative paths in `cfg` begin where the command was given."""
    for key in _PATHS:
        path = OmegaConf.select(cfg, key)
        if path in (None, "auto", "never") or path.startswith(("~", "/")):
            continue
        OmegaConf.update(cfg, key, str(folder / path))
    if cfg.data._target_.startswith(("runner.data.text.", "runner.data.table.")):
        for key in _OF_OWN_FILES:
            _complete(folder, cfg.data, key)
    name = OmegaConf.select(cfg, "data.name")
    if name is not None and name.startswith(("./", "../")):
        cfg.data.name = str(folder / name)


def _complete(folder: Path, node: DictConfig, key: str) -> None:
    """The path at `key`, or those in the mapping there; a column's name is none."""
    value = node.get(key)
    if isinstance(value, DictConfig):
        for name in value:
            _complete(folder, value, str(name))
    elif isinstance(value, str) and key != "splits" and value not in _WORDS:
        if not value.startswith(("~", "/")):
            node[key] = str(folder / value)
