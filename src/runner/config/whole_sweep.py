"""The configuration of a sweep as a whole, which Hydra composes before its jobs'."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.settings import GROUPS, SETTINGS

_load = ConfigLoaderImpl.load_configuration


def leave_to_jobs() -> None:
    """Let `optimizer=adamw,lion optimizer.weight_decay=0.1` be what it says.

    Hydra applies what isn't swept to the whole sweep, which has the default choice of a
    swept group, and so other keys than those of the jobs.
    """
    ConfigLoaderImpl.load_configuration = _loaded


def _loaded(
    self: ConfigLoaderImpl,
    config_name: str | None,
    overrides: list[str],
    run_mode: RunMode,
    *options: Any,
    **more: Any,
) -> DictConfig:
    """What Hydra's own loads, but keys within swept groups are left to the jobs."""
    if run_mode is not RunMode.MULTIRUN:
        return _load(self, config_name, overrides, run_mode, *options, **more)
    parsed = OverridesParser.create().parse_overrides(overrides)

    def load(sections: Collection[str]) -> DictConfig:
        lines = [
            line
            for line, override in zip(overrides, parsed, strict=True)
            if not _is_in(override, sections)
        ]
        config = _load(self, config_name, lines, run_mode, *options, **more)
        if len(lines) < len(overrides):  # which the jobs get from here
            config.hydra.overrides.task = [
                o.input_line for o in parsed if not o.is_hydra_override()
            ]
        return config

    swept = _swept(parsed)
    try:
        return load(swept)
    except ConfigCompositionException:
        # A preset may sweep a group. Which, is known without the keys in groups.
        params = load(GROUPS).hydra.sweeper.get("params") or {}
        lines = [f"{key}={value}" for key, value in params.items()]
        by_preset = _swept(OverridesParser.create().parse_overrides(lines))
        if by_preset <= swept:
            raise
        return load(swept | by_preset)


def sweeps_presets(
    override: Override, master: DictConfig, loader: ConfigLoader
) -> bool:
    """Whether `override` sweeps a group of files that may set any key of `master`."""
    name = override.key_or_group
    is_swept = override.is_sweep_override() and name not in master
    return is_swept and bool(loader.get_group_options(name))


def with_presets(
    choice: Mapping[str, str], master: DictConfig, loader: ConfigLoader
) -> DictConfig:
    """`master`, had its command line only this choice of the presets that it sweeps."""
    given = master.hydra.overrides
    others = [o for o in given.task if o.partition("=")[0] not in choice]
    chosen = [f"{key}={value}" for key, value in choice.items()]
    return loader.load_configuration(
        master.hydra.job.config_name,
        [*given.hydra, *chosen, *others],
        RunMode.MULTIRUN,
    )


def _swept(overrides: Sequence[Override]) -> set[str]:
    """The sections whose keys depend on the job."""
    found: set[str] = set()
    for override in overrides:
        if override.is_sweep_override():
            name = override.package or override.key_or_group.replace("/", ".")
            # A preset, such as an experiment, chooses in all groups.
            found.update([name] if name.partition(".")[0] in SETTINGS else GROUPS)
    return found


def _is_in(override: Override, sections: Collection[str]) -> bool:
    key = override.key_or_group
    is_within = any(key.startswith(f"{section}.") for section in sections)
    return is_within and not override.is_sweep_override()
