"""Checks the configuration's keys, and the ranges of its values."""

import functools
import operator
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from omegaconf import BooleanNode, DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from runner.config.plain import plain
from runner.errors import ConfigError, did_you_mean, no_such_key
from runner.settings import MISSING, SECTIONS, SETTINGS, Settings


@functools.cache
def strict_booleans() -> None:
    """Let OmegaConf refuse 2 and -1 for true or false, as which it takes any number."""
    convert = BooleanNode._validate_and_convert_impl

    def _validate_and_convert_impl(self: BooleanNode, value: Any) -> bool:
        if type(value) is int and value not in (0, 1):
            raise ValidationError("Value '$VALUE' is not a valid bool")
        return convert(self, value)

    BooleanNode._validate_and_convert_impl = _validate_and_convert_impl


def check_keys(cfg: DictConfig) -> None:
    """Refuse keys that `+key=value` adds to runner's sections: nothing reads them.

    `+optimzer=sgd` would otherwise train with the default optimizer.

    Raises:
      ConfigError: a key that the schema doesn't have.
    """
    for section, schema in {"": Settings, **SECTIONS}.items():
        names = [field.name for field in fields(schema)]
        for key in OmegaConf.select(cfg, section) if section else cfg:
            if key not in names:
                message = no_such_key(section, key, names)
                raise ConfigError(message + did_you_mean(str(key), names))


def check_ranges(cfg: DictConfig, keys: Iterable[str] = tuple(SETTINGS)) -> None:
    """Refuse the values of `keys` that are out of range.

    Values that refer to the number of steps are skipped until it is known.

    Raises:
      ConfigError: names the key, the value and the rule.
    """
    values = plain(cfg)
    is_known = cfg.train.steps_per_epoch is not None
    for key in keys:
        valid, rule = SETTINGS[key].valid, SETTINGS[key].rule
        if valid is None:
            continue
        value = functools.reduce(operator.getitem, key.split("."), values)
        if "${" in str(value) and not is_known:
            continue
        if "${" in str(value) or value == MISSING:
            value = OmegaConf.select(cfg, key, throw_on_missing=True)
        if value is not None and not valid(value):
            raise ConfigError(f"{key}={value} must be {rule}")
