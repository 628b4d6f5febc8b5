"""Run folders as two tables: one of runs, and one of their logged metrics."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from runner.compare.moved import with_todays_targets
from runner.errors import ConfigError, few
from runner.record.checksums import check_records
from runner.record.files import NON_FINITE
from runner.record.format import run_folders
from runner.record.provenance import FACTS
from runner.record.untrusted import (
    clean,
    one_line,
    read_foreign,
    read_rows,
    read_summary,
)
from runner.settings import FACT, GROUPS, SETTINGS
from runner.trees import flatten

CHOICES = (*GROUPS, "precision", "mesh")
COSTS = ("wall_seconds", "compile_seconds", "flops_per_step")
SEEDS = ("seeds.init", "seeds.order", "seeds.step")  # null: that of `seed`
_ENDED = ("done", "failed")  # jobs in sweep.json, which have left a folder
# A number within a name; of a version such as 0.10.2, each part is one.
_NUMBER = re.compile(r"((?<![\d.])\d+\.\d+(?:e[+-]?\d+)?(?!\d|\.\d)|\d+(?:e[+-]?\d+)?)")


class Runs(NamedTuple):
    """The runs that were found.

    Attributes:
      table: one row for each run, in the natural order of `run`, its name. `folder`,
        `status`, `error`, `stopped` (why it ended before its last step), `unchanged`
        (parameters and model state that training never moved, as JSON) and COSTS of its
        summary; the names chosen in CHOICES; the resolved config and `provenance.`
        flattened with dots, lists as JSON text; `final.`, `best.` and `best_step.` of
        each metric. What a run lacks is null.
      curves: `run`, `step` in optimizer steps, and a Float64 column for each metric.
        Sorted by run, as in `table`, and step.
      problems: one line for each run that can't be read, or was removed.
    """

    table: pl.DataFrame
    curves: pl.DataFrame
    problems: tuple[str, ...] = ()


class Record(NamedTuple):
    """One run as it was read: its three JSON files, and the rows of its metrics.

    Its rows may have anything in them; `_curves` takes the numbers.
    """

    folder: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def load(paths: Sequence[Path]) -> Runs:
    """Read the runs in and below `paths`. Executes nothing and imports no JAX.

    Args:
      paths: run folders and folders that hold them, in any order; a run is a folder
        with a config.json or summary.json. A run that is found twice counts once.

    What can't be read, or isn't a folder, is left out and told in `problems`.

    Raises:
      ConfigError: no run that can be read.
    """
    none = (
        f"no run in {', '.join(map(str, paths))}: a run is a folder with a config.json "
        "or summary.json, and no exported model"
    )
    folders, problems = found_in(paths, run_folders)
    problems += _gone(paths, folders)
    return read_all(folders, problems, _read, none)


def found_in(
    paths: Iterable[Path], below: Callable[[Path], Iterable[Path]]
) -> tuple[list[Path], list[str]]:
    """What `below` finds in each of `paths`, sorted, and why it can't search others."""
    found: set[Path] = set()
    problems = []
    for path in paths:
        try:
            if path.is_dir():
                found.update(below(path))
            else:
                problems.append(one_line(f"{path} is not a folder"))
        except (OSError, ValueError, RuntimeError) as error:
            problems.append(_problem(path, error))
    return sorted(found), problems


def _gone(paths: Iterable[Path], folders: Iterable[Path]) -> Iterator[str]:
    """The jobs of sweeps in `paths` whose folders, with all they say, were removed."""
    roots = {path.resolve() for path in paths}
    for sweep in sorted({parent for folder in folders for parent in folder.parents}):
        if roots.isdisjoint({sweep, *sweep.parents}):
            continue
        try:
            jobs = _mapping(read_foreign(sweep / "sweep.json").get("jobs")).values()
        except (OSError, ValueError):
            continue
        ended = (row for row in jobs if _mapping(row).get("state") in _ENDED)
        names = [name for row in ended if type(name := row.get("folder")) is str]
        if gone := [name for name in names if not (sweep / name).is_dir()]:
            yield one_line(f"{sweep}: of its jobs, these are gone: {few(gone)}")


def read_all(
    sources: list[Path], problems: list[str], read: Callable[[Path], Record], none: str
) -> Runs:
    """The tables of what `read` makes of each source; what it can't is a problem.

    Raises:
      ConfigError: nothing could be read; the message is `none` and the problems.
    """
    found = []
    for source in sources:
        try:
            record = read(source)
            config, provenance, summary = map(clean, record[1:4])
            record = Record(record.folder, config, provenance, summary, record.rows)
            _check_directions(record.provenance)
            found.append(record)
        # Whatever another program may have left there: the other runs are fine.
        except Exception as error:
            problems.append(_problem(source, error))
    if not found:
        raise ConfigError("\n".join([none, *problems]))
    return tables(found, problems)


def _problem(source: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = Path(str(error.filename)).name
        return one_line(f"{source}: {place} can't be read: {error.strerror}")
    is_told = isinstance(error, OSError | ValueError | ConfigError)
    kind = "" if is_told else f"{type(error).__name__}: "
    return one_line(f"{source}: {kind}{error}")


def _check_directions(provenance: Mapping[str, Any]) -> None:
    for name, value in _mapping(provenance.get("directions")).items():
        if value not in ("min", "max", None):
            raise ValueError(
                f"provenance.json: directions.{name}={value} must be min, max or null"
            )


def _read(folder: Path) -> Record:
    config, provenance = (
        _read_if_there(folder / f"{name}.json", read_foreign) or {}
        for name in ("config", "provenance")
    )
    summary = _read_if_there(folder, read_summary) or {}
    rows = _read_if_there(folder / "metrics.jsonl", read_rows) or []
    check_records(folder)
    return Record(folder, with_todays_targets(config), provenance, summary, rows)


def _read_if_there(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        return None


def tables(records: Sequence[Record], problems: Iterable[str] = ()) -> Runs:
    """The tables of `records`, whatever their order."""
    root = os.path.commonpath([str(record.folder.parent) for record in records])
    by_name = {one_line(record.folder.relative_to(root)): record for record in records}
    named = {name: by_name[name] for name in sorted(by_name, key=natural)}
    rows = [_row(record) | {"run": name} for name, record in named.items()]
    _add_absent(rows, list(named.values()))
    keys = sorted({k for row in rows for k in row}, key=_column_order)
    columns = [_column(name, [row.get(name) for row in rows]) for name in keys]
    table = _with_repeats(pl.DataFrame(columns))
    return Runs(table, _curves(named), tuple(problems))


def _add_absent(rows: Sequence[dict[str, Any]], records: Sequence[Record]) -> None:
    """Say what it means that a run lacks what another has."""
    keys = {key for row in rows for key in row}
    absent = {k: s.absent for k, s in SETTINGS.items() if k in keys and s.absent != ""}
    facts = {
        name: {k: fact.absent for k in keys if k.startswith(f"{FACT}{name}.")}
        for name, fact in FACTS.items()
        if fact.absent
    }
    for row, record in zip(rows, records, strict=True):
        meant = absent if record.config else {}
        for name, own in facts.items():
            if isinstance(record.provenance.get(name), Mapping):
                meant = meant | own
        row.update(meant | row)


def _with_repeats(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with `seed` standing for whatever of a run's seeds varies."""
    own = [name for name in SEEDS if name in table and table[name].count()]
    if not own:
        return table
    names = {name: pl.coalesce(name, "seed") for name in own}
    seeds = table.select(**dict.fromkeys(SEEDS, pl.col("seed")) | names)
    varied = [name for name in SEEDS if seeds[name].n_unique() > 1]
    several = pl.struct(*SEEDS).rank("dense")
    one = seeds.select(seed=varied[0] if len(varied) == 1 else several)
    return table.with_columns(one.cast(pl.Int64))


def natural(text: str) -> tuple[list[Any], str]:
    """A key that sorts job 10 after job 9, 0.002 after 0.0015, 0.10.0 after 0.9.0."""
    parts = _NUMBER.split(text)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)], text


def _row(record: Record) -> dict[str, Any]:
    config = dict(record.config)
    choices = _mapping(_mapping(config.pop("hydra", None)).get("choices"))
    summary = record.summary
    final = _mapping(summary.get("final"))
    best = {k: _mapping(v) for k, v in _mapping(summary.get("best")).items()}
    return {
        **_as_text(flatten(config)),
        **{group: choices.get(group) for group in CHOICES},
        **_as_text(flatten(record.provenance, FACT)),
        **{f"final.{k}": _number(v) for k, v in final.items()},
        **{f"best.{k}": _number(v.get("value")) for k, v in best.items()},
        **{f"best_step.{k}": v.get("step") for k, v in best.items()},
        "folder": one_line(record.folder),
        "seed": config.get("seed"),
        "status": summary.get("status", "unknown"),
        "error": summary.get("error"),
        "stopped": summary.get("stopped"),
        "unchanged": summary.get("unchanged"),
        **{cost: summary.get(cost) for cost in COSTS},
    }


def _as_text(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`flat` with lists and empty mappings as JSON text."""
    return {
        key: json.dumps(value) if isinstance(value, Mapping | list) else value
        for key, value in flat.items()
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    """`value`, or {} if another program stores something else under that name."""
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if value is None or type(value) is float:  # most of them
        return value
    if type(value) is int and abs(value) < 2**1023:
        return float(value)
    return NON_FINITE.get(value) if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _whole(value: Any) -> int | None:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole or type(value) is int else None


_FIRST = ("run", "folder", "status", "error", "stopped", "unchanged", "seed", *CHOICES)
_LAST = ("", "provenance", "final", "best", "best_step", *COSTS)  # "" is the config
_TYPES = {
    **dict.fromkeys(("folder", "status", "error", "stopped", "unchanged"), pl.String),
    **dict.fromkeys(("seed", "seeds", "best_step"), pl.Int64),
    **dict.fromkeys(("final", "best", *COSTS), pl.Float64),
}
_COMMON_TYPES = {
    frozenset({bool}): pl.Boolean,
    frozenset({int}): pl.Int64,
    frozenset({float}): pl.Float64,
    frozenset({int, float}): pl.Float64,
}


def _column_order(name: str) -> tuple[int, int, str]:
    """A key that sorts columns: names, config, provenance, results."""
    if name in _FIRST:
        return 0, _FIRST.index(name), name
    section = name.split(".")[0]
    return 1, _LAST.index(section if section in _LAST else ""), name


def _column(name: str, values: list[Any]) -> pl.Series:
    """A column of one type; values without a common type become text."""
    kinds = frozenset(type(value) for value in values if value is not None)
    dtype = _TYPES.get(name.split(".")[0]) or _COMMON_TYPES.get(kinds, pl.String)
    as_type = {pl.Float64: _number, pl.Int64: _whole, pl.String: _text}.get(dtype)
    return pl.Series(name, [*map(as_type, values)] if as_type else values, dtype)


def _curves(named: Mapping[str, Record]) -> pl.DataFrame:
    rows = [
        (name, row)
        for name, record in named.items()
        for row in record.rows
        if type(row.get("step")) is int and abs(row["step"]) < 2**63
    ]
    # As series: a table made from lists takes half as long again.
    columns = {
        "run": pl.Series([name for name, _ in rows], dtype=pl.String),
        "step": pl.Series([row["step"] for _, row in rows], dtype=pl.Int64),
    }
    for key in sorted({key for _, row in rows for key in row}):
        if (name := one_line(key)) not in columns:
            values = [_number(row.get(key)) for _, row in rows]
            columns[name] = pl.Series(values, dtype=pl.Float64)
    table = pl.DataFrame(columns)
    # A resumed run repeats the steps after its checkpoint: the last row counts.
    table = table.unique(["run", "step"], keep="last", maintain_order=True)
    return table.sort(pl.col("run").rle_id(), "step")
