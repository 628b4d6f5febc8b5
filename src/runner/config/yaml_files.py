"""Mistakes in a user's YAML files, told with the file and its line."""

import functools
import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from omegaconf import ListConfig
from omegaconf.errors import OmegaConfBaseException

from runner.errors import ConfigError

_DEEPEST = 10  # times that a file's defaults lead back to it before it is a loop


@functools.cache
def explain_files() -> None:
    """Let Hydra raise a ConfigError with file and line for a YAML file it can't use."""
    _explain_loading()
    _refuse_loops()
    _refuse_missing_folders()


def _explain_loading() -> None:
    load = ConfigRepository.load_config

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        try:
            loaded = load(self, config_path)
        except HydraException:  # names the file
            raise
        except Exception as error:
            file = _file(self, config_path)
            raise ConfigError(f"{file}{_problem(error, file)}") from error
        if loaded is None:
            return None
        if isinstance(loaded.config, ListConfig):
            raise ConfigError(
                f"{_file(self, config_path)}, line 1: it must have keys with values, "
                "`key: value`, and is a list"
            )
        for key in loaded.config:
            if not isinstance(key, str):
                file = _file(self, config_path)
                raise ConfigError(
                    f"{file}{_line_of(key, file)}: the key {key} must be text, the "
                    "name of an argument or a setting"
                )
        return loaded

    ConfigRepository.load_config = load_config


def _refuse_loops() -> None:
    create = defaults_list._create_defaults_tree_impl

    def _create_defaults_tree_impl(root: Any, **others: Any) -> Any:
        path, above = _path(root), []
        parent = root.parent
        while parent is not None:
            above.append(_path(parent))
            parent = parent.parent
        if path and above.count(path) >= _DEEPEST:
            loop = [path, *above[: above.index(path) + 1]]
            raise ConfigError(
                f"the defaults of {path}.yaml lead back to itself: "
                f"{' -> '.join(reversed(loop))}"
            )
        return create(root=root, **others)

    defaults_list._create_defaults_tree_impl = _create_defaults_tree_impl


def _refuse_missing_folders() -> None:
    initialize = ConfigRepository.initialize_sources

    def initialize_sources(self: ConfigRepository, config_search_path: Any) -> None:
        initialize(self, config_search_path)
        for source in self.sources:
            # Hydra warns, and goes on without the files.
            is_own = source.provider.startswith("hydra.searchpath")
            if is_own and not source.is_group(""):
                raise ConfigError(
                    f"hydra.searchpath has {source.full_path()}, which is not a folder "
                    "or package that can be found"
                )

    ConfigRepository.initialize_sources = initialize_sources


def _path(node: Any) -> str | None:
    default = node.node
    is_file = not default.is_virtual() and default.get_name() is not None
    return default.get_config_path() if is_file else None


def _file(repository: ConfigRepository, config_path: str) -> Traversable:
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    assert source is not None
    name = ConfigSource._normalize_file_name(config_path)
    if source.scheme() == "pkg":
        return importlib.resources.files(source.path).joinpath(name)
    return Path(source.path, name)


def _problem(error: Exception, file: Traversable) -> str:
    """What is wrong with `file`, after its name: the line, and why."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        why = f", line {error.problem_mark.line + 1}: {error.problem}"
        start = error.context_mark
        if error.context and start:
            why += f" ({error.context}, from line {start.line + 1} on)"
        return why
    if isinstance(error, UnicodeDecodeError):
        content = file.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError as found:
            line = content.count(b"\n", 0, found.start) + 1
            return f", line {line}: the byte {content[found.start]:#x} is not UTF-8"
    if isinstance(error, yaml.reader.ReaderError):
        line = file.read_text("utf-8").count("\n", 0, error.position) + 1
        return f", line {line}: {error.reason}"
    if isinstance(error, OmegaConfBaseException):
        key = f"{error.full_key}: " if error.full_key else ""
        return f": {key}{str(error).splitlines()[0]}"
    return f": {error}"


def _line_of(key: Any, file: Traversable) -> str:
    root = yaml.compose(file.read_text("utf-8"), yaml.SafeLoader)
    for node, _ in root.value if isinstance(root, yaml.MappingNode) else []:
        if yaml.safe_load(node.value) == key:
            return f", line {node.start_mark.line + 1}"
    return ""
