"""Run folders as two tables: one of runs, and one of their logged metrics."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from runner.errors import ConfigError
from runner.record.checksums import check_records
from runner.record.files import NON_FINITE, read_metrics
from runner.record.moved import with_todays_targets
from runner.record.provenance import FACTS
from runner.settings import FACT, GROUPS
from runner.trees import flatten

CHOICES = (*GROUPS, "precision", "mesh")
SEEDS = ("seeds.init", "seeds.order", "seeds.step")  # null: that of `seed`

# These folders of a run hold thousands of files and no other run.
_NOT_RUNS = {"wandb", "checkpoints", "profile", ".hydra"}


class Runs(NamedTuple):
    """The runs that were found.

    Attributes:
      table: one row for each run, in the natural order of `run`, its name. `folder`,
        `status`, `error`, `wall_seconds` and `compile_seconds`; the names chosen in
        CHOICES; the resolved config and `provenance.` flattened with dots, lists as
        JSON text; `final.`, `best.` and `best_step.` of each metric. What a run lacks
        is null.
      curves: `run`, `step` in optimizer steps, and a Float64 column for each metric.
        Sorted by run, as in `table`, and step.
      problems: one line for each run that can't be read.
    """

    table: pl.DataFrame
    curves: pl.DataFrame
    problems: tuple[str, ...] = ()


class Record(NamedTuple):
    """One run as it was read: its three JSON files, and the rows of its metrics."""

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

    Raises:
      ConfigError: a path that isn't a folder, or no run that can be read.
    """
    none = (
        f"no run in {', '.join(map(str, paths))}: a run is a folder with a config.json "
        "or summary.json"
    )
    return read_all(sorted({f for path in paths for f in _runs_in(path)}), _read, none)


def read_all(
    sources: Iterable[Path], read: Callable[[Path], Record], none: str
) -> Runs:
    """The tables of what `read` makes of each source; what it can't is a problem.

    Raises:
      ConfigError: nothing could be read; the message is `none` and the problems.
    """
    records, problems = [], []
    for source in sources:
        try:
            records.append(read(source))
        except (OSError, ValueError) as error:
            problems.append(" ".join(f"{source}: {error}".split()))
    if not records:
        raise ConfigError("\n".join([none, *problems]))
    return tables(records, problems)


def existing_folder(path: Path) -> Path:
    """`path`; raises ConfigError if it isn't a folder."""
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder")
    return path


def _runs_in(path: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(existing_folder(path).resolve()):
        if "config.json" in files or "summary.json" in files:
            yield Path(folder)
            subfolders[:] = [s for s in subfolders if s not in _NOT_RUNS]


def _read(folder: Path) -> Record:
    config, provenance, summary = (
        _read_json(folder / f"{name}.json")
        for name in ("config", "provenance", "summary")
    )
    try:
        check_records(folder)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    metrics = folder / "metrics.jsonl"
    rows = read_metrics(metrics) if metrics.is_file() else []
    return Record(folder, with_todays_targets(config), provenance, summary, rows)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def tables(records: Sequence[Record], problems: Iterable[str] = ()) -> Runs:
    """The tables of `records`, whatever their order."""
    parents = [str(record.folder.parent) for record in records]
    root = os.path.commonpath(parents)
    named = {str(record.folder.relative_to(root)): record for record in records}
    named = dict(sorted(named.items(), key=lambda item: natural(item[0])))
    rows = [_row(record) | {"run": name} for name, record in named.items()]
    _add_absent(rows, list(named.values()))
    names = sorted({k for row in rows for k in row}, key=_column_order)
    columns = [_column(name, [row.get(name) for row in rows]) for name in names]
    table = _with_repeats(pl.DataFrame(columns))
    return Runs(table, _curves(named), tuple(problems))


def _add_absent(rows: Sequence[dict[str, Any]], records: Sequence[Record]) -> None:
    """Say what it means that a run's mapping lacks what that of another has."""
    for name, fact in FACTS.items():
        if not fact.absent:
            continue
        start = f"{FACT}{name}."
        keys = {key for row in rows for key in row if key.startswith(start)}
        for row, record in zip(rows, records, strict=True):
            if name in record.provenance:
                row.update(dict.fromkeys(keys - row.keys(), fact.absent))


def _with_repeats(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with `seed` standing for whatever of a run's seeds varies."""
    own = [name for name in SEEDS if name in table and table[name].count()]
    if not own:
        return table
    seeds = table.select(
        pl.coalesce(*([name] if name in own else []), "seed").alias(name)
        for name in SEEDS
    )
    varied = [name for name in SEEDS if seeds[name].n_unique() > 1]
    one = seeds[varied[0]] if len(varied) == 1 else None
    if one is None:
        one = seeds.select(pl.struct(*SEEDS).rank("dense"))[SEEDS[0]]
    return table.with_columns(one.cast(pl.Int64).alias("seed"))


def natural(text: str) -> tuple[list[Any], str]:
    """A key that sorts job 10 after job 9, and 0.01, of equal numbers, before 0.1."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if part.isdecimal() else part for part in parts], text


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
        "folder": str(record.folder),
        "seed": config.get("seed"),
        "status": summary.get("status", "unknown"),
        "error": summary.get("error"),
        "wall_seconds": summary.get("wall_seconds"),
        "compile_seconds": summary.get("compile_seconds"),
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
    if isinstance(value, int | float) or value in NON_FINITE:
        return float(value)
    return None


_FIRST = ("run", "folder", "status", "error", "seed", *CHOICES)
_LAST = ("provenance", "final", "best", "best_step", "wall_seconds", "compile_seconds")
_TYPES = {
    **dict.fromkeys(("folder", "status", "error"), pl.String),
    **dict.fromkeys(("seed", "best_step"), pl.Int64),
    **dict.fromkeys(("wall_seconds", "compile_seconds", "final", "best"), pl.Float64),
}
_COMMON_TYPES = {
    frozenset({bool}): pl.Boolean,
    frozenset({int}): pl.Int64,
    frozenset({float}): pl.Float64,
    frozenset({int, float}): pl.Float64,
}


def _column_order(name: str) -> tuple[int, int, str]:
    """A key that sorts columns: names, config, provenance, results."""
    section = name.split(".")[0]
    if name in _FIRST:
        return 0, _FIRST.index(name), name
    if section in _LAST:
        return 2, _LAST.index(section), name
    return 1, 0, name


def _column(name: str, values: list[Any]) -> pl.Series:
    """A column of one type; values without a common type become text."""
    kinds = frozenset(type(value) for value in values if value is not None)
    dtype = _TYPES.get(name.split(".")[0]) or _COMMON_TYPES.get(kinds, pl.String)
    if dtype is pl.String:
        values = [
            v if v is None or isinstance(v, str) else json.dumps(v) for v in values
        ]
    return pl.Series(name, values, dtype, strict=False)


def _curves(named: Mapping[str, Record]) -> pl.DataFrame:
    rows = [
        {**row, "run": name}
        for name, record in named.items()
        for row in record.rows
        if type(row.get("step")) is int
    ]
    metrics = sorted({key for row in rows for key in row} - {"run", "step"})
    types = {"run": pl.String, "step": pl.Int64} | dict.fromkeys(metrics, pl.Float64)
    table = pl.DataFrame(
        [
            pl.Series(name, [row.get(name) for row in rows], dtype, strict=False)
            for name, dtype in types.items()
        ]
    )
    # A resumed run repeats the steps after its checkpoint: the last row counts.
    table = table.unique(["run", "step"], keep="last", maintain_order=True)
    return table.sort(pl.col("run").rle_id(), "step")
