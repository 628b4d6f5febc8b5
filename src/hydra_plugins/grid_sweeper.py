"""`hydra/sweeper=grid`: every combination, with values that belong together.

Hydra imports this at every start, so it imports nothing heavy.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from omegaconf import OmegaConf

from runner.errors import ConfigError, did_you_mean

# The overrides of one job: each key as it was typed, such as `+model.x`, and the text
# of its value.
Job = dict[str, str]

MOST_JOBS = 100_000  # each has a folder, and is composed before the first one runs


@dataclass
class GridSweeperConf:
    """`hydra.sweeper`. The first two are those of Hydra's own sweeper."""

    _target_: str = "hydra_plugins.grid_sweeper.GridSweeper"
    _convert_: str = "all"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    zip: list[Any] = field(default_factory=list)
    grids: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="runner"
)


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, for values that shouldn't be combined in every way.

    zip: keys whose values advance together, `[a, b]`, or several such lists,
      `[[a, b], [c, d]]`.
    grids: what else to sweep for each value of a key:
      `{optimizer: {sgd: {optimizer.learning_rate: "0.1,0.3"}, lbfgs: {}}}`. A key
      without an override has its value in the composed configuration. Overrides of your
      own win over a grid.

    Of several swept presets, as in `experiment=a,b`, each brings what it sweeps itself.

    As in Hydra's own, jobs are in the order of nested loops: the last key varies
    fastest, and the keys of grids come after all others.

    Raises:
      ConfigError: from `sweep`, before any job: for a zip or a grid that doesn't fit
        the sweep, for a key without values and for jobs that are equal.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        zip: Sequence[Any] = (),
        grids: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.zip = zip
        self.grids = grids or {}

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; where none can begin, leave no folder behind."""
        from runner.config.hydra_files import discard_unused

        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            return super().sweep(arguments)
        except BaseException:
            discard_unused(folder, made)
            raise

    # Static in the parent, which calls it on `self`.
    def split_arguments(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """All jobs as lists of overrides, in batches of `max_batch_size`."""
        if max_batch_size is not None and max_batch_size < 1:
            raise ConfigError(
                f"hydra.sweeper.max_batch_size={max_batch_size} must be a positive "
                "number, or null for all jobs at once"
            )
        lines = [job for part in self._presets(overrides) for job in part]
        _refuse_equal(lines)
        return list(self.split_overrides_to_chunks(lines, max_batch_size))

    def _jobs(self, overrides: list[Override]) -> list[list[str]]:
        # A later override of a key replaces an earlier one, in the earlier one's place.
        swept = {override.get_key_element(): override for override in overrides}
        given = {key: _values(override) for key, override in swept.items()}
        axes = self._axes(given, swept)
        _refuse_too_many(math.prod(map(len, axes)))
        jobs = [
            {key: job[key] for key in given}  # in the order in which they were given
            for job in _product(axes)
        ]
        own = {_name(key) for key in given}
        for selector, grid in self.grids.items():
            jobs = [more for job in jobs for more in self._on(selector, grid, job, own)]
            _refuse_too_many(len(jobs))
        return [[f"{key}={value}" for key, value in job.items()] for job in jobs]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose each job before the first one runs, unless the launcher does."""
        if not getattr(self.launcher, "composes_before_it_runs", False):
            super().validate_batch_is_legal(batch)

    def _presets(self, overrides: list[Override]) -> Iterator[list[list[str]]]:
        """The jobs of each choice among swept presets, or those of all if none sweeps.

        Hydra has composed `self.config` without the presets that are swept.
        """
        from runner.config.whole_sweep import sweeps_presets, with_presets

        master, context = self.config, self.hydra_context
        presets = {
            o.get_key_element(): _values(o)
            for o in overrides
            if master and context and sweeps_presets(o, master, context.config_loader)
        }
        if not presets or not master or not context:
            yield self._jobs(overrides)
            return
        choices = _product([[{k: v} for v in values] for k, values in presets.items()])
        configs = [with_presets(c, master, context.config_loader) for c in choices]
        if all(config.hydra.sweeper == master.hydra.sweeper for config in configs):
            yield self._jobs(overrides)
            return
        for choice, config in zip(choices, configs, strict=True):
            first = [f"{key}={value}" for key, value in choice.items()]
            settings: Any = OmegaConf.to_container(config.hydra.sweeper)
            if settings["_target_"] != master.hydra.sweeper._target_:
                raise ConfigError(
                    f"{' '.join(first)} has a sweeper of its own kind: run it alone, "
                    "not in a sweep with others"
                )
            sweeper = GridSweeper(**{k: v for k, v in settings.items() if k[0] != "_"})
            sweeper.config, sweeper.hydra_context = config, context
            lines = [*first, *sweeper._parse_config(), *config.hydra.overrides.task]
            yield sweeper._jobs(self._parser().parse_overrides(lines))

    def _axes(
        self, given: dict[str, list[str]], overrides: dict[str, Override]
    ) -> list[list[Job]]:
        """The axes to combine: one for each key, or for keys zipped together."""
        swept = {_name(key): key for key in given if overrides[key].is_sweep_override()}
        first: dict[str, list[str]] = {}  # a group, by its key that was given first
        zipped: set[str] = set()
        for names in self._groups():
            group = sorted((_swept(n, swept) for n in names), key=list(given).index)
            lengths = {key: len(given[key]) for key in group}
            if len(set(lengths.values())) > 1:
                counts = ", ".join(f"{key} has {n}" for key, n in lengths.items())
                raise ConfigError(
                    "hydra.sweeper.zip needs keys with equally many values; " + counts
                )
            twice = [key for key, n in Counter(group).items() if n > 1 or key in zipped]
            if twice:
                raise ConfigError(
                    f"hydra.sweeper.zip has {twice[0]} twice; a key can be in one "
                    "group only"
                )
            zipped.update(group)
            first[group[0]] = group
        return [
            [
                dict(zip(group, values, strict=True))
                for values in zip(*(given[key] for key in group), strict=True)
            ]
            for group in (
                first.get(k, [k]) for k in given if k in first or k not in zipped
            )
        ]

    def _groups(self) -> list[list[str]]:
        if all(isinstance(key, str) for key in self.zip):
            return [list(self.zip)] if self.zip else []
        for group in self.zip:
            is_list = isinstance(group, list) and group
            if not is_list or not all(isinstance(key, str) for key in group):
                raise ConfigError(
                    f"hydra.sweeper.zip={self.zip} must be a list of keys, or a list "
                    "of such lists"
                )
        return list(self.zip)

    def _on(self, selector: str, grid: Any, job: Job, own: set[str]) -> list[Job]:
        """`job`, combined with the grid for its value of `selector`."""
        where = f"hydra.sweeper.grids.{selector}"
        value = self._value(selector, job)
        named = {_plain(_text(name)): name for name in _mapping(where, grid)}
        if _plain(value) not in named:
            names = [_text(name) for name in grid]
            raise ConfigError(
                f"{where} has no grid for {value}; it has one for {', '.join(names)}; "
                f"+{where}.{value}={{}} sweeps nothing with it."
                + did_you_mean(value, names)
            )
        name = named[_plain(value)]
        entries = _mapping(f"{where}.{name}", grid[name] or {})
        taken = {_name(key) for key in job} - own
        axes = [[job]]
        for key, text in entries.items():
            if _name(key) in own:
                continue
            if _name(key) in taken:
                raise ConfigError(f"{where}.{name}: another grid has {key} too")
            if isinstance(text, list | dict):
                raise ConfigError(
                    f"{where}.{name}.{key}={text} must be text as on the command line, "
                    'such as "0.1,0.3"'
                )
            override = self._parser().parse_override(f"{key}={_text(text)}")
            axes.append([{key: value} for value in _values(override)])
        return _product(axes)

    def _value(self, selector: str, job: Job) -> str:
        """The value of a group or key in `job`, or else in the configuration."""
        for key, value in job.items():
            if _name(key) == _name(selector):
                return value
        assert self.config is not None
        choices = self.config.hydra.runtime.choices
        if selector in choices:
            return _text(choices[selector])
        missing = object()
        value = OmegaConf.select(self.config, selector, default=missing)
        if value is missing:
            names = [*(n for n in choices if "hydra/" not in n), *self.config]
            raise ConfigError(
                f"hydra.sweeper.grids has {selector!r}, which is neither a group nor "
                f"a key of the configuration.{did_you_mean(selector, names)}"
            )
        return _text(value)

    def _parser(self) -> OverridesParser:
        context = self.hydra_context
        return OverridesParser.create(context.config_loader if context else None)


def _name(key: str) -> str:
    """A key without the signs that say to add, force or delete it."""
    return key.lstrip("+~")


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


@cache
def _plain(name: str) -> str:
    """A text as Hydra parses it: 0.10 is 0.1, and 'a' in quotes is a."""
    return repr(OverridesParser.create().parse_override(f"name={name}").value())


def _values(override: Override) -> list[str]:
    """The texts of an override's values, one or several."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line} is a range to search in; this sweep needs values, "
            f"such as {key}=0.1,0.3"
        )
    value = override.value()
    if isinstance(value, RangeSweep) and value.step:
        first, end = value.start, value.stop
        assert first is not None and end is not None
        # Listed only if they aren't too many.
        _refuse_too_many(math.ceil((end - first) / value.step))
    try:
        values = list(override.sweep_string_iterator())
    except ValueError as error:  # such as a step of 0
        raise ConfigError(f"{override.input_line}: {error}") from error
    if not values:
        raise ConfigError(f"{override.input_line} has no values")
    if isinstance(value, RangeSweep):
        # A sum of steps: 0.3, where Hydra's own has 0.30000000000000004.
        values = [str(float(f"{float(x):.15g}")) if "." in x else x for x in values]
    return values


def _refuse_too_many(jobs: int) -> None:
    if jobs > MOST_JOBS:
        raise ConfigError(
            f"the sweep would have {jobs:,} jobs, more than the {MOST_JOBS:,} that one "
            "sweep may have: sweep fewer values, or in several sweeps"
        )


def _product(axes: Sequence[Sequence[Job]]) -> list[Job]:
    return [
        {key: value for part in parts for key, value in part.items()}
        for parts in product(*axes)
    ]


def _swept(name: str, swept: Mapping[str, str]) -> str:
    if _name(name) not in swept:
        raise ConfigError(
            f"hydra.sweeper.zip has {name}, which isn't swept; swept are "
            f"{', '.join(swept) or 'no keys'}.{did_you_mean(name, swept)}"
        )
    return swept[_name(name)]


def _mapping(where: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}={value} must be a mapping; hydra.sweeper.grids has the form "
            '{key: {value: {swept_key: "0.1,0.3"}}}'
        )
    return value


def _refuse_equal(jobs: Sequence[Sequence[str]]) -> None:
    first: dict[tuple[str, ...], int] = {}
    for number, job in enumerate(jobs):
        if tuple(job) in first:
            raise ConfigError(
                f"jobs {first[tuple(job)]} and {number} are equal ({' '.join(job)}): "
                "a value is given twice"
            )
        first[tuple(job)] = number
