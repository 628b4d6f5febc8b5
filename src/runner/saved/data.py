"""The data that a saved run is used on: its own, or what overrides name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.config import conf
from runner.config.explain import MISTAKES, explain
from runner.config.plain import plain
from runner.data.dataset import Dataset, Feature
from runner.data.digest import data_digest, sampled
from runner.errors import ConfigError
from runner.job.session import Session


def with_data(
    cfg: DictConfig, overrides: Sequence[str], config_dir: Path | None
) -> DictConfig:
    """A copy of `cfg` with the data that `overrides` name.

    Args:
      overrides: of `data.*`, and maybe `data=NAME`, which today's conf/ or `config_dir`
        has.

    Raises:
      ConfigError: one is of something else, or can't be.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            if override.key_or_group.partition(".")[0] != "data":
                raise ConfigError(
                    f"{override.input_line} can't be given here: only the data can be "
                    "others, such as data=digits and data.batch_size=32"
                )
            if override.is_sweep_override():
                raise ConfigError(f"{override.input_line} must be one value")
        choice = [str(o.input_line) for o in parsed if o.key_or_group == "data"]
        keys = [o for o in parsed if o.key_or_group != "data"]
        made = OmegaConf.create(plain(cfg))
        assert isinstance(made, DictConfig)
        if choice:
            own = conf.search_path(config_dir)
            with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
                data = compose("config", [*choice, *own]).data
            made.data = plain(data)
        OmegaConf.set_struct(made, True)
        ConfigLoaderImpl._apply_overrides_to_config(keys, made)
    except (*MISTAKES, ValueError) as error:  # the latter from Hydra
        raise ConfigError(explain(error, overrides)) from error
    new = cfg.copy()
    with open_dict(new):
        new.data = made.data
    return new


def check_alike(
    cfg: DictConfig,
    own: DictConfig,
    session: Session,
    names: str,
    digest: Any,
) -> dict[str, Feature]:
    """Refuse data of which a column has another shape or type than the run's own.

    Also a table or a text that would be turned into numbers in another way: that
    follows from the training rows, such as their mean.

    Args:
      cfg: with the other data.
      own: with the run's.
      names: the overrides, for messages.
      digest: of the run's own data, as it was recorded.

    Returns:
      the columns of the run's own data; none if these aren't here.

    Raises:
      ConfigError: names the column, and both shapes.
    """
    there = _own(own, session)
    here: Dataset = session.made(cfg, "data")
    advice = _learned(cfg)
    if advice and not _same_training(here, there, digest):
        raise ConfigError(f"{names}: {advice}")
    if there is None:
        return {}
    for name, feature in there.features.items():
        found = here.features.get(name)
        if found is not None and found[:2] != feature[:2]:
            raise ConfigError(
                f"{names} doesn't fit the run: the column {name} is {_text(found)} "
                f"there, and {_text(feature)} in the data that the run has learned from"
            )
    return there.features


def _learned(cfg: DictConfig) -> str:
    """What to say where numbers follow from other training examples; or nothing."""
    target = cfg.data._target_
    if target.startswith("runner.data.table."):
        return (
            "the run's columns were turned into numbers by its own training rows "
            "(means, categories), and these would be by others. Give other rows as a "
            "split beside the run's own: +data.splits.test_new=FILE"
        )
    if target.startswith("runner.data.text.") and cfg.data.vocabulary == "characters":
        return (
            "the same characters would be other tokens than in the run. Text without "
            "new characters can be given beside the run's own: data.test=FILE"
        )
    return ""


def _same_training(here: Dataset, there: Dataset | None, digest: Any) -> bool:
    """Whether the training split is that of the run; as recorded, if it has moved."""
    if there is not None:
        return sampled(here.train) == sampled(there.train)
    found = data_digest(here)
    part = "train" if "train" in found else "contents"
    return isinstance(digest, dict) and found.get(part) == digest.get(part)


def _own(cfg: DictConfig, session: Session) -> Dataset | None:
    """The run's own data; None if they aren't here."""
    cfg = cfg.copy()
    if "download" in cfg.data:
        cfg.data.download = False
    try:
        return session.made(cfg, "data")
    except (ConfigError, OSError):
        return None


def misfit(here: dict[str, Feature], own: dict[str, Feature]) -> str:
    """What differs between the columns of two data sets, in words."""
    return "; ".join(
        f"the column {name} is {_text(here[name])}, and {_text(feature)} in the data "
        "that the run has learned from"
        for name, feature in own.items()
        if name in here and here[name] != feature
    )


def _text(feature: Feature) -> str:
    classes = "" if feature.classes is None else f" of {feature.classes} classes"
    return f"{feature.dtype}{[*feature.shape]}{classes}"
