"""The configuration of a run as it was recorded, and what today's conf/ gives."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import conf
from runner.config.conf import one_length
from runner.config.explain import explain
from runner.config.plain import plain
from runner.errors import ConfigError, few
from runner.record.files import from_json, to_json
from runner.record.secrets import REDACTED, scrub
from runner.saved.record import Recorded
from runner.settings import Settings, identifies_job
from runner.trees import flatten

_SHOWN = 6  # the others are counted
# In place of a value in an override, which needs quotes, since it isn't a word.
_REDACTED_VALUE = re.compile(rf"(?<=[=:,\[{{ ]){REDACTED}(?=[,\]}}]|$)")
_REFERENCE = re.compile(r"\$\{(\w[\w.]*)\}")


def typed(recorded: Recorded, today: DictConfig | None) -> DictConfig:
    """The recorded configuration with the types of `Settings`, ready for `build`.

    A setting that is newer than the record is taken from `today`.

    Raises:
      ConfigError: an unknown key, a wrong type, or a value that was never recorded.
    """
    for key, value in flatten(recorded.config).items():
        if value == REDACTED and identifies_job(key):
            raise ConfigError(
                f"{recorded.source}: {key} is a secret and was not recorded, so the "
                "run can't be built again. As ${oc.env:NAME} it would be read there"
            )
    try:
        raw = OmegaConf.create(from_json(recorded.config))
        cfg = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Settings), raw))
        for key in sorted(OmegaConf.missing_keys(cfg)):
            value = None if today is None else OmegaConf.select(today, key)
            if value is None and (today is None or key not in flatten(plain(today))):
                raise ConfigError(f"{recorded.source}: config.json has no {key}")
            OmegaConf.update(cfg, key, value)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{recorded.source}: {explain(error)}") from None
    return cfg


def recompose(recorded: Recorded, config_dir: Path | None = None) -> DictConfig:
    """What the recorded overrides give with today's conf/.

    Those of Hydra itself are left out: its search path may name packages to import.

    Raises:
      ConfigError: it can't be composed.
    """
    if "overrides" not in recorded.hydra:
        raise ConfigError("no overrides are recorded")
    overrides = [
        _REDACTED_VALUE.sub(f"'{REDACTED}'", override)
        for override in recorded.hydra["overrides"]
        if not override.lstrip("+~").startswith("hydra")
    ]
    own = conf.search_path(config_dir or _config_dir(recorded))
    try:
        with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
            cfg = compose("config", [*overrides, *own])
        one_length(cfg, overrides)
        # `build` fills these in.
        train = cfg.train
        if train.convolution == "auto":
            train.convolution = recorded.config["train"].get("convolution")
        train.steps_per_epoch = recorded.config["train"]["steps_per_epoch"]
        if train.steps is None and train.epochs is not None:
            train.steps = train.epochs * train.steps_per_epoch
        conf.recorded(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except (LookupError, TypeError) as error:
        raise ConfigError("train.steps_per_epoch is not recorded") from error
    return cfg


def _config_dir(recorded: Recorded) -> Path | None:
    """The user's own --config-dir, if it is still there."""
    if recorded.config_dir is None:
        return None
    folder = Path(str(recorded.provenance.get("folder") or "."), recorded.config_dir)
    return folder if folder.is_dir() else None


def differences(recorded: Recorded, today: DictConfig) -> str:
    """The keys whose values differ from `today`, such as "seed 0 -> 1, ..."."""
    there = flatten(scrub(recorded.config))
    here = flatten(to_json(scrub(conf.recorded(today))))
    found = [
        f"{key} {_text(here, key)} -> {_text(there, key)}"
        for key in sorted(here | there)
        if (key in here) != (key in there) or here[key] != there[key]
    ]
    return few(found, _SHOWN)


def check_agreement(recorded: Recorded, today: DictConfig | None) -> None:
    """Refuse a record whose values can't all be of one run.

    For example, a recorded schedule has its own copy of `optimizer.learning_rate`. If
    only one of both is edited, the replay would train with the old value and find all
    rows equal.

    Raises:
      ConfigError: two values differ of which conf/ takes one from the other, or steps
        are not epochs times steps_per_epoch.
    """
    there = flatten(recorded.config)
    found = []
    for key, text in flatten(plain(today)).items() if today is not None else ():
        reference = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        source = reference[1] if reference else key
        if {key, source} <= set(there) and there[key] != there[source]:
            found.append(
                f"{key} is {there[key]}, but {source}, its source in conf/, is "
                f"{there[source]}"
            )
    epochs, steps, per_epoch = (
        there.get(f"train.{name}") for name in ("epochs", "steps", "steps_per_epoch")
    )
    if isinstance(epochs, int) and isinstance(per_epoch, int):
        if steps != epochs * per_epoch:
            found.append(
                f"train.steps is {steps}, but train.epochs={epochs} of "
                f"train.steps_per_epoch={per_epoch} are {epochs * per_epoch}"
            )
    if found:
        raise ConfigError(
            f"{recorded.source}: config.json contradicts itself, so it was edited or "
            f"conf/ has changed: {few(found, _SHOWN)}"
        )


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "nothing"
    return "null" if values[key] is None else str(values[key])
