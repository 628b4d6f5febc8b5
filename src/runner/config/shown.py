"""A configuration as a person reads it: `--cfg job --resolve` and `print=config`."""

import pickle
import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.config.conf import one_length
from runner.config.hydra_files import to_yaml
from runner.config.plain import plain
from runner.errors import ConfigError, did_you_mean
from runner.trees import flatten

PENDING = "pending (the data decide it; print=config shows it)"

_show_cfg = Hydra.show_cfg


def show_resolved() -> None:
    """Let `--cfg job --resolve` name what is known only once the data are loaded.

    Hydra's own ends with an error there, as the steps of a run are null until then.
    """
    Hydra.show_cfg = _shown


def _shown(
    self: Hydra,
    config_name: str | None,
    overrides: list[str],
    cfg_type: str,
    package: str | None,
    resolve: bool = False,
) -> None:
    if cfg_type != "job" or not resolve:
        return _show_cfg(self, config_name, overrides, cfg_type, package, resolve)
    cfg = self.compose_config(
        config_name, overrides, RunMode.RUN, with_log_configuration=False
    )
    HydraConfig.instance().set_config(cfg)
    task = plain(cfg.hydra.overrides.task)
    assert isinstance(task, list)
    with open_dict(cfg):
        del cfg["hydra"]
    one_length(cfg, task)
    package = None if package == "_global_" else package
    found = _part(resolved(cfg), package)
    if not isinstance(found, dict | list):
        print(found)
        return
    header = f"# @package {package}\n" if package else ""
    sys.stdout.write(header + to_yaml(found))


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` as plain values, with PENDING for each that depends on the data.

    Raises:
      OmegaConfBaseException: an interpolation refers to nothing.
    """
    # What differs between two data sets depends on the data. Steps of an epoch: large
    # enough for every fraction of them to differ too.
    one, other = (_with_epochs_of(steps, cfg) for steps in (10**9 + 7, 10**10 + 19))
    return _alike(one, other)


def _with_epochs_of(steps: int, cfg: DictConfig) -> Any:
    cfg = pickle.loads(pickle.dumps(cfg))
    train = cfg.train
    if train.steps_per_epoch is None:
        train.steps_per_epoch = steps
        if train.steps is None and train.epochs is not None:
            train.steps = train.epochs * steps
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)


def _alike(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {key: _alike(one[key], other[key]) for key in one}
    if isinstance(one, list):
        return [_alike(*both) for both in zip(one, other, strict=True)]
    return one if one == other else PENDING


def _part(values: dict[str, Any], package: str | None) -> Any:
    """The part of `values` at the dotted key `package`.

    Raises:
      ConfigError: there is none.
    """
    found: Any = values
    for name in package.split(".") if package else ():
        if not isinstance(found, dict) or name not in found:
            keys: Sequence[str] = [*values, *flatten(values)]
            raise ConfigError(
                f"--package {package} is no part of the configuration."
                + did_you_mean(package or "", keys)
            )
        found = found[name]
    return found
