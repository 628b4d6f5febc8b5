"""Hydra's facts about the job that it has just composed."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from runner.config.conf import one_length
from runner.config.plain import plain
from runner.errors import ConfigError
from runner.settings import GROUPS

_PATHS = ("checkpoint.resume", "compilation_cache", "init_from")
# The arguments of functions that name files, ours and a user's, of a group's own one.
_IS_PATH = re.compile(r"(.*_)?(path|dir|file|folder)")
# Others of data=text and data=table that are paths, unless they are these words.
_OF_OWN_FILES = ("validation", "test", "vocabulary", "splits")
_WORDS = ("bytes", "characters")


class HydraJob(NamedTuple):
    """A composed job, apart from its configuration.

    Attributes:
      folder: the run folder.
      choices: the name chosen in each config group.
      overrides: its command line, as recorded.
      sweep: the name of the sweep that it belongs to, if any.
      started: where the command was given; by default the working folder.
      direction: of a search, "minimize" or "maximize"; None: it is in none.
    """

    folder: Path
    choices: Mapping[str, str]
    overrides: Sequence[str]
    sweep: str | None
    started: Path = Path()
    direction: str | None = None


@contextlib.contextmanager
def hydra_aside(config: DictConfig) -> Iterator[None]:
    """Take `hydra`, which is the larger part, out of `config` within the block."""
    contents = config.__dict__["_content"]
    hydra = contents.pop("hydra", None)
    try:
        yield
    finally:
        if hydra is not None:
            contents["hydra"] = hydra


def hydra_job(cfg: DictConfig) -> HydraJob:
    """The job that Hydra has just composed as `cfg`; see `facts`."""
    composed = HydraConfig.get()
    in_sweep = composed.mode == RunMode.MULTIRUN
    sweep = Path(composed.sweep.dir).name if in_sweep else None
    made = facts(cfg, composed, Path(composed.runtime.output_dir), sweep)
    if composed.job.chdir:
        _from(Path(composed.runtime.cwd), cfg)
    return made


def facts(cfg: DictConfig, hydra: Any, folder: Path, sweep: str | None) -> HydraJob:
    """What Hydra knows about `cfg` beside it.

    Of two lengths in `cfg`, the one that isn't on the command line is removed.

    Args:
      cfg: as Hydra has composed it.
      hydra: its own section.
      folder: that of the run.
      sweep: the name of its sweep, if any.
    """
    # As they were typed: an interpolation in one may name a secret.
    overrides = plain(hydra.overrides.task)
    assert isinstance(overrides, list)
    _refuse_lists(overrides)
    one_length(cfg, overrides)
    choices = {
        group: choice
        for group, choice in hydra.runtime.choices.items()
        # Without Hydra's own groups, and those of presets for Hydra's section.
        if not group.startswith("hydra/") and "@hydra." not in group
    }
    direction = hydra.sweeper.get("direction") if sweep is not None else None
    started = Path(hydra.runtime.cwd)
    return HydraJob(folder, choices, overrides, sweep, started, direction)


def _refuse_lists(overrides: Sequence[str]) -> None:
    """Refuse several choices where only one can be, as Hydra would merge them.

    Raises:
      ConfigError: names the group.
    """
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        if group in GROUPS and value.startswith("["):
            raise ConfigError(
                f"{override} must be one name, as the arguments of several would be "
                f"mixed; -m with {group}=NAME,NAME runs each"
            )


def _from(folder: Path, cfg: DictConfig) -> None:
    """Let relative paths in `cfg` begin where the command was given."""
    arguments = [
        f"{group}.{name}"
        for group in GROUPS
        for name in cfg[group]
        if _IS_PATH.fullmatch(str(name))
    ]
    for key in [*_PATHS, *arguments]:
        path = OmegaConf.select(cfg, key)
        if not isinstance(path, str) or path in ("auto", "never"):
            continue
        if not path.startswith(("~", "/")):
            OmegaConf.update(cfg, key, str(folder / path))
    if cfg.data._target_.startswith(("runner.data.text.", "runner.data.table.")):
        for key in _OF_OWN_FILES:
            _complete(folder, cfg.data, key)
    files = OmegaConf.select(cfg, "data.files")
    if isinstance(files, ListConfig):
        cfg.data.files = [
            file if file.startswith(("~", "/")) else str(folder / file)
            for file in files
        ]
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
