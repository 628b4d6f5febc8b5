"""The TFDS builder that a name in the config stands for."""

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from runner.data.files import expanded
from runner.data.tfds.without_tensorflow import NEEDS_TENSORFLOW, is_tensorflow_missing
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_INFO_FILE = "dataset_info.json"


def find_builder(name: str, data_dir: Path) -> "Callable[[], tfds.core.DatasetBuilder]":
    """A function that makes builders for `name`; see `tfds_data` for its forms.

    Raises:
        ConfigError: there is no such data set, module, class or prepared folder.
    """
    if name == "digits":
        from runner.data.digits import Digits

        return functools.partial(Digits, data_dir=data_dir)
    folder = expanded("data.name", name) if name.startswith("~") else Path(name)
    if name.startswith(("/", "./", "../", "~")) or (folder / _INFO_FILE).is_file():
        _check_folder(name, folder)
        return functools.partial(_builder_from_directory, folder)
    if re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", name):
        return functools.partial(_user_builder_class(name), data_dir=data_dir)
    _check_tfds_name(name, data_dir)
    return functools.partial(_tfds_builder, name, data_dir)


def _check_folder(name: str, folder: Path) -> None:
    if (folder / _INFO_FILE).is_file():
        return
    below = sorted(str(path.parent) for path in folder.glob(f"*/**/{_INFO_FILE}"))
    hint = f" Perhaps {below[-1]}?" if below else ""
    raise ConfigError(
        f"data.name={name!r} is not a folder prepared by TFDS: it holds no "
        f"{_INFO_FILE}.{hint}"
    )


def _builder_from_directory(folder: Path) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder)


def _user_builder_class(name: str) -> "type[tfds.core.DatasetBuilder]":
    import tensorflow_datasets as tfds

    module_name, class_name = name.split(":")
    # `python -m` has the working directory on the path, a console script doesn't.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ConfigError(
            f"data.name={name!r}: there is no module {error.name!r} in the installed "
            f"packages or in {os.getcwd()}."
        ) from error
    builders = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, tfds.core.DatasetBuilder)
    }
    if class_name not in builders:
        raise ConfigError(
            f"data.name={name!r}: {module_name} has no TFDS builder {class_name!r}."
            + did_you_mean(class_name, builders)
        )
    return builders[class_name]


def _check_tfds_name(name: str, data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    base, _, config = name.partition(":")[0].partition("/")
    # Community data sets would be looked up over the network.
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        if (
            base and (data_dir / base).is_dir()
        ):  # prepared earlier; the code isn't needed
            return
        raise ConfigError(
            f"data.name={name!r} is neither a TFDS data set, a pkg.module:BuilderClass "
            "nor the path of a prepared folder."
            + did_you_mean(base, ["digits", *known])
        )
    configs = tfds.builder_cls(base).builder_configs
    if config and config not in configs and not (data_dir / base / config).is_dir():
        raise ConfigError(
            f"data.name={name!r}: {base} has no config {config!r}."
            + did_you_mean(config, configs)
        )


def _tfds_builder(name: str, data_dir: Path) -> "tfds.core.DatasetBuilder":
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    # TFDS raises an AssertionError for a version that it doesn't know.
    except (AssertionError, ImportError, ValueError) as error:
        cause = error.__cause__ or error  # TFDS prefixes its own arguments
        reason = NEEDS_TENSORFLOW if is_tensorflow_missing(error) else str(cause)
        reason = " ".join(reason.split())
        raise ConfigError(f"data.name={name!r}: {reason}") from error
