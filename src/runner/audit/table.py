"""A published table: what was run, what came out, and what its source leaves open."""

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.plain import plain
from runner.errors import ConfigError, did_you_mean
from runner.settings import SETTINGS

SHIPPED = Path(__file__).parent / "tables"


class Cell(NamedTuple):
    """One published number.

    Attributes:
      name: of the cell.
      where: its key in the file, such as `cells[2]`.
      overrides: of its runs, beside those that all runs have.
      metric: a number of a row, such as "validation/loss", or of a test split.
      epoch, step: when it was measured; at the end of a run if both are None.
      mean: over the published runs.
      std: the standard deviation between them; None if it isn't known.
      n: how many there were.
    """

    name: str
    where: str
    overrides: tuple[str, ...]
    metric: str
    epoch: int | None
    step: int | None
    mean: float
    std: float | None
    n: int


class Candidate(NamedTuple):
    """A value that an open factor may have had.

    Attributes:
      factor: its name.
      where: its key in the file.
      overrides: the value.
      cells: the names of those that it applies to.
    """

    factor: str
    where: str
    overrides: tuple[str, ...]
    cells: frozenset[str]


class Table(NamedTuple):
    """A table, as its file describes it.

    Attributes:
      path: the file.
      source: where it was published.
      settings: overrides that all runs have in common.
      seeds: a run of each cell for each of them.
      candidates: the values of all open factors.
    """

    path: Path
    source: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    candidates: tuple[Candidate, ...]

    def overrides(
        self, cell: Cell, candidate: Candidate | None = None
    ) -> tuple[str, ...]:
        """Those of a cell's runs but for the seed; of a key, the most special one."""
        own = candidate.overrides if candidate and cell.name in candidate.cells else ()
        by_key: dict[str, str] = {}
        for override in (*self.settings, *cell.overrides, *own):
            key = key_of(override)
            is_added = by_key.get(key, "")[:1] == "+" and override[:1] not in "+~"
            by_key[key] = f"+{override}" if is_added else override
        # The names of runs begin with what tells them apart.
        first = dict.fromkeys(map(key_of, (*cell.overrides, *own)))
        return tuple(by_key[key] for key in dict.fromkeys([*first, *by_key]))


def key_of(override: str) -> str:
    """The key that an override sets, adds or removes."""
    return override.partition("=")[0].lstrip("+~")


def find(name: str) -> Path:
    """The file `name`, or the shipped table of this name.

    Raises:
      ConfigError: there is none.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise ConfigError(
        f"{name} is neither a file nor a shipped table; these are "
        f"{', '.join(shipped)}.{did_you_mean(path.stem, shipped)}"
    )


def read(path: Path) -> Table:
    """Read a table and check all that needs no configuration.

    Raises:
      ConfigError: names the file, the key and the rule.
    """
    try:
        # Unlike PyYAML alone, it reads 1e-3 as a number and refuses a key given twice.
        tree = plain(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{path} can't be read as a table: {text}") from error
    try:
        return _table(path, tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


_KEYS = ("source", "settings", "seeds", "cells", "open")
_CELL = ("name", "overrides", "metric", "epoch", "step", "mean", "std", "se", "n")
_FACTOR = ("cells", "values")


def _table(path: Path, tree: Any) -> Table:
    _check_keys("", tree, _KEYS, ("source", "seeds", "cells"))
    cells = tree["cells"]
    if not isinstance(cells, list) or not cells:
        raise ConfigError("cells must be a list of at least one cell")
    found = tuple(_cell(f"cells[{i}]", cell) for i, cell in enumerate(cells))
    names = [cell.name for cell in found]
    for cell in found:
        if names.count(cell.name) > 1:
            raise ConfigError(f"{cell.where}.name={cell.name}: another cell has it too")
    factors = tree.get("open") or {}
    if not isinstance(factors, dict):
        raise ConfigError("open must be a mapping from factors to their values")
    return Table(
        path=path,
        source=_text("source", tree["source"]),
        settings=_overrides("settings", tree.get("settings") or []),
        seeds=_seeds(tree["seeds"]),
        cells=found,
        candidates=tuple(
            candidate
            for name, values in factors.items()
            for candidate in _candidates(str(name), values, names)
        ),
    )


def _cell(where: str, cell: Any) -> Cell:
    _check_keys(where, cell, _CELL, ("name", "metric", "mean", "n"))
    given = {"epoch": cell.get("epoch"), "step": cell.get("step")}
    for key, value in given.items():
        if value is not None and not (_is_whole(value) and value >= 1):
            raise ConfigError(
                f"{where}.{key}={value} must be a whole number of at least 1; without "
                "epoch and step, the cell is about the end of its runs"
            )
    if None not in given.values():
        raise ConfigError(f"{where} has both epoch and step; give one of them")
    n = cell["n"]
    if not (_is_whole(n) and n >= 1):
        raise ConfigError(f"{where}.n={n} must be a number of runs, at least 1")
    return Cell(
        name=_text(f"{where}.name", cell["name"]),
        where=where,
        overrides=_overrides(f"{where}.overrides", cell.get("overrides") or []),
        metric=_text(f"{where}.metric", cell["metric"]),
        **given,
        mean=_number(f"{where}.mean", cell["mean"], -math.inf),
        std=_std(where, cell, n),
        n=n,
    )


def _std(where: str, cell: Mapping[str, Any], n: int) -> float | None:
    if "std" in cell and "se" in cell:
        raise ConfigError(f"{where} has both std and se; give one of them")
    for key, factor in (("std", 1.0), ("se", math.sqrt(n))):
        if cell.get(key) is not None:
            if n < 2:
                raise ConfigError(f"{where}.{key}: a single run (n: 1) has none")
            return factor * _number(f"{where}.{key}", cell[key], 0)
    return None


def _candidates(factor: str, values: Any, names: Sequence[str]) -> list[Candidate]:
    where, patterns = f"open.{factor}", ["*"]
    if isinstance(values, dict):
        _check_keys(where, values, _FACTOR, ("values",))
        patterns, values = values.get("cells", patterns), values["values"]
        where = f"{where}.values"
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"{where} must be a list of values, each an override or a list of them"
        )
    if not isinstance(patterns, list):
        raise ConfigError(f"open.{factor}.cells must be a list of names or patterns")
    for pattern in patterns:
        if not any(fnmatchcase(name, str(pattern)) for name in names):
            raise ConfigError(
                f"open.{factor}.cells: no cell is called {pattern}."
                + did_you_mean(str(pattern), names)
            )
    cells = {n for n in names if any(fnmatchcase(n, str(p)) for p in patterns)}
    found = []
    for i, value in enumerate(values):
        value = value if isinstance(value, list) else [value]
        own = _overrides(f"{where}[{i}]", value)
        found.append(Candidate(factor, f"{where}[{i}]", own, frozenset(cells)))
    return found


def _overrides(where: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ConfigError(f"{where} must be a list of overrides, such as [seed=1]")
    for value in values:
        if not isinstance(value, str) or ("=" not in value and value[:1] != "~"):
            raise ConfigError(f"{where}: {value} must be an override, key=value")
        key = key_of(value)
        if key == "seed":
            raise ConfigError(f"{where}: {value}: the seeds of all runs are in seeds")
        if re.split(r"[./@]", key)[0] in ("hydra", "cluster"):
            raise ConfigError(
                f"{where}: {value}: a table can't say where its runs are trained"
            )
    return tuple(values)


def _seeds(values: Any) -> tuple[int, ...]:
    valid, rule = SETTINGS["seed"].valid, SETTINGS["seed"].rule
    assert valid is not None
    if not isinstance(values, list) or not values or not all(map(_is_whole, values)):
        raise ConfigError(f"seeds={values} must be a list of whole numbers")
    if not all(map(valid, values)):
        raise ConfigError(f"seeds={values} must be a list of numbers {rule}")
    if len(set(values)) < len(values):
        raise ConfigError(f"seeds={values} has a seed twice")
    return tuple(values)


def _check_keys(
    where: str, tree: Any, keys: Sequence[str], needed: Sequence[str]
) -> None:
    if not isinstance(tree, dict):
        text = f"{where} must be" if where else "it must be"
        raise ConfigError(f"{text} a mapping with the keys {', '.join(keys)}")
    dot = f"{where}." if where else ""
    for key in tree:
        if key not in keys:
            hint = did_you_mean(str(key), keys)
            if key == "spread":
                hint = " Is it a standard deviation, std, or a standard error, se?"
            raise ConfigError(f"{dot}{key}: there are {', '.join(keys)}.{hint}")
    for key in needed:
        if tree.get(key) is None:
            raise ConfigError(f"{dot}{key} must be given")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}={value} must be text")
    return value.strip()


def _number(where: str, value: Any, least: float) -> float:
    is_number = type(value) in (int, float)
    if not (is_number and math.isfinite(value) and value >= least):
        rule = "a finite number" + (" of at least 0" if least == 0 else "")
        raise ConfigError(f"{where}={value} must be {rule}")
    return float(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int
