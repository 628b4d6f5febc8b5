"""Hydra's own files of a job, and its names for folders, without secrets."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import config_loader_impl
from hydra._internal.hydra import Hydra
from hydra.core import utils
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf._utils import OmegaConfDumper
from omegaconf.errors import OmegaConfBaseException

from runner.config.plain import plain
from runner.errors import ConfigError
from runner.record.secrets import met, named, scrub

_OF_SWEEP = "multirun.yaml"
_compose: Any = Hydra.compose_config
_with_secrets = config_loader_impl.get_overrides_dirname
_saved = OmegaConf.save
_returned: Any = utils.JobReturn.return_value

# OmegaConf's dumper, in C where PyYAML has it: six times as fast.
_Dumper: Any = type("_Dumper", (getattr(yaml, "CDumper", yaml.Dumper),), {})
_Dumper.add_representer(str, OmegaConfDumper.str_representer)


def hydra_files() -> None:
    """Let Hydra write what it does without secrets, and leave errors to us.

    They aren't removed later: a process that is killed must leave none behind.
    """
    hydra: Any = utils
    hydra._save_config = _save_config
    composing: Any = Hydra
    composing.compose_config = _composed
    omegaconf: Any = OmegaConf
    omegaconf.save = staticmethod(_save)
    loader: Any = config_loader_impl
    loader.get_overrides_dirname = _overrides_dirname
    job_return: Any = utils.JobReturn
    job_return.return_value = property(_return_value, _returned.fset)


def _composed(
    self: Hydra,
    config_name: str | None,
    overrides: list[str],
    run_mode: RunMode,
    **options: Any,
) -> Any:
    """What Hydra composes; a folder without a name would be the working folder.

    Raises:
      ConfigError: `hydra.run.dir` or `hydra.sweep.dir` is empty, as one given by a
        variable of the shell that isn't set.
    """
    cfg = _compose(self, config_name, overrides, run_mode, **options)
    kind = "sweep" if run_mode is RunMode.MULTIRUN else "run"
    with contextlib.suppress(OmegaConfBaseException):  # which it may yet depend on
        if not str(cfg.hydra[kind].dir).strip():
            raise ConfigError(
                f"hydra.{kind}.dir= is empty, and must be the name of a folder; . is "
                "the working folder"
            )
    return cfg


def to_yaml(values: Any) -> str:
    """The same text as that of Hydra's own `OmegaConf.save`, without secrets."""
    return _dump(scrub(values))


def _dump(values: Any) -> str:
    return yaml.dump(
        values,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        Dumper=_Dumper,
    )


def write_yaml(path: Path, values: Any) -> None:
    """Write `values` as `to_yaml` shows them."""
    path.write_text(to_yaml(values), encoding="utf-8")


class Sections:
    """The sections of configurations, as one job after the other writes them.

    Jobs of a sweep have most of them in common, so the last text of each is kept.
    """

    def __init__(self):
        self._last: dict[tuple[str, str], tuple[str, str]] = {}
        self._secrets = met()

    def write(self, path: Path, sections: Mapping[str, Any], under: str = "") -> None:
        """Write what `write_yaml` does, with all sections in the one named, if any."""
        texts = self._texts(sections, under)
        if self._secrets != met():  # one may be in the text of another section
            self._last.clear()
            texts = self._texts(sections, under)
            self._secrets = met()
        head = f"{under}:\n" if under else ""
        path.write_text(head + "".join(texts), encoding="utf-8")

    def _texts(self, sections: Mapping[str, Any], under: str) -> list[str]:
        texts = []
        for key, value in sections.items():
            known, shown = (under, key), repr(value)
            if self._last.get(known, ("",))[0] != shown:
                whole = {under: {key: value}} if under else {key: value}
                self._last[known] = shown, to_yaml(whole).removeprefix(f"{under}:\n")
            texts.append(self._last[known][1])
        return texts


def discard_unused(folder: Path, made: Iterable[Path], first: str = _OF_SWEEP) -> None:
    """Remove the `first` file in a sweep's folder, if nothing else is there.

    And those of the folders that were `made` for it, from the innermost one.
    """
    if not folder.is_dir() or [path.name for path in folder.iterdir()] != [first]:
        return
    (folder / first).unlink()
    for empty in made:
        if not any(empty.iterdir()):
            empty.rmdir()


def _save(config: Any, f: Any, resolve: bool = False) -> None:
    # Hydra loads its sweepers again, so they can't be told apart from other callers.
    if isinstance(f, Path) and f.name == _OF_SWEEP:
        write_yaml(f, plain(config))
    else:
        _saved(config, f, resolve)


def _save_config(cfg: Any, filename: str, output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    write_yaml(output_dir / filename, plain(cfg))


def _return_value(job: utils.JobReturn) -> Any:
    # Hydra's own prints the overrides before it raises, beside our own message.
    if job.status is utils.JobStatus.FAILED:
        raise job._return_value
    return job._return_value


def _overrides_dirname(overrides: list[Override], **others: Any) -> str:
    lines = [
        dataclasses.replace(o, input_line=named(o.input_line or "")) for o in overrides
    ]
    return _with_secrets(lines, **others)
