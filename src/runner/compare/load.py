"""Run folders as two tables: one row a run, and the curves."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from runner.errors import ConfigError
from runner.record.files import NON_FINITE, read_metrics
from runner.record.moved import with_todays_targets
from runner.settings import GROUPS
from runner.trees import flatten

CHOICES = (*GROUPS, "mesh")

# Below a run folder these hold thousands of files and no run.
_NOT_RUNS = {"wandb", "checkpoints", "profile", ".hydra"}


class Runs(NamedTuple):
    """What was found.

    Attributes:
      table: one row a run, in the natural order of `run`, its name. `folder`, `status`,
        `error`, `wall_seconds` and `compile_seconds`; the names chosen in CHOICES; the
        resolved config and `provenance.` flattened with dots, lists as JSON text;
        `final.`, `best.` and `best_step.` of each metric. What a run lacks is null.
      curves: `run`, `step` in optimizer steps, and a Float64 column for each metric.
        Sorted by run, as in `table`, and step.
      problems: one line for each run that can't be read.
    """

    table: pl.DataFrame
    curves: pl.DataFrame
    problems: tuple[str, ...] = ()


class Record(NamedTuple):
    """One run as it was read: three files of JSON, and the rows of its metrics."""

    folder: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def load(paths: Sequence[Path]) -> Runs:
    """Read the runs in and below `paths`. Executes nothing and imports no JAX.

    Args:
      paths: run folders and folders that hold them, in any order; a run is a folder
        with a config.json or summary.json. One that is reached twice counts once.

    Raises:
      ConfigError: a path that doesn't exist, or no run that can be read.
    """
    records, problems = [], []
    for folder in run_folders(paths):
        try:
            records.append(_read(folder))
        except (OSError, ValueError) as error:
            problems.append(" ".join(f"{folder}: {error}".split()))
    if not records:
        raise ConfigError(
            f"no run in {', '.join(map(str, paths))}: a run is a folder with a "
            "config.json or summary.json" + "".join(f"\n{p}" for p in problems)
        )
    return tables(records, problems)


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs in and below `paths`, each once.

    Raises:
      ConfigError: a path that isn't a folder.
    """
    found = set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder")
        for folder, subfolders, files in os.walk(path.resolve()):
            if "config.json" in files or "summary.json" in files:
                found.add(Path(folder))
                subfolders[:] = [s for s in subfolders if s not in _NOT_RUNS]
    return sorted(found)


def _read(folder: Path) -> Record:
    config, provenance, summary = (
        _read_json(folder / f"{name}.json")
        for name in ("config", "provenance", "summary")
    )
    metrics = folder / "metrics.jsonl"
    rows = read_metrics(metrics) if metrics.is_file() else []
    return Record(folder, with_todays_targets(config), provenance, summary, rows)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return value


def tables(records: Sequence[Record], problems: Iterable[str] = ()) -> Runs:
    """`records` as tables, the same for every order of them."""
    parents = [str(record.folder.parent) for record in records]
    root = os.path.commonpath(parents)
    named = {str(record.folder.relative_to(root)): record for record in records}
    named = dict(sorted(named.items(), key=lambda item: natural(item[0])))
    rows = [_row(record) | {"run": name} for name, record in named.items()]
    names = sorted({k for row in rows for k in row}, key=_place)
    columns = [_column(name, [row.get(name) for row in rows]) for name in names]
    return Runs(pl.DataFrame(columns), _curves(named), tuple(problems))


def natural(text: str) -> list[Any]:
    """A key that sorts job 10 after job 9."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", text)]


def _row(record: Record) -> dict[str, Any]:
    config = dict(record.config)
    choices = _mapping(_mapping(config.pop("hydra", None)).get("choices"))
    summary = record.summary
    final = _mapping(summary.get("final"))
    best = {k: _mapping(v) for k, v in _mapping(summary.get("best")).items()}
    return {
        **_as_text(flatten(config)),
        **{group: choices.get(group) for group in CHOICES},
        **_as_text(flatten(record.provenance, "provenance.")),
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
    """`value`, or nothing where another program meant something else by the name."""
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) or value in NON_FINITE:
        return float(value)
    return None


_FIRST = ("run", "folder", "status", "error", "seed", *CHOICES)
_LAST = ("provenance", "final", "best", "best_step", "wall_seconds", "compile_seconds")
_TYPES = {
    "folder": pl.String,
    "status": pl.String,
    "error": pl.String,
    "seed": pl.Int64,
    "best_step": pl.Int64,
    "wall_seconds": pl.Float64,
    "compile_seconds": pl.Float64,
    "final": pl.Float64,
    "best": pl.Float64,
}


def _place(name: str) -> tuple[int, int, str]:
    """Where a column stands: what run it is, its config, where from, its results."""
    section = name.split(".")[0]
    if name in _FIRST:
        return 0, _FIRST.index(name), name
    if section in _LAST:
        return 2, _LAST.index(section), name
    return 1, 0, name


def _column(name: str, values: list[Any]) -> pl.Series:
    """One type for all values; what has no common type becomes text."""
    kinds = {type(value) for value in values if value is not None}
    dtype = _TYPES.get(name.split(".")[0])
    if dtype is None:
        if kinds == {bool}:
            dtype = pl.Boolean
        elif kinds == {int}:
            dtype = pl.Int64
        elif kinds and kinds <= {int, float}:
            dtype = pl.Float64
        else:
            dtype = pl.String
    if dtype is pl.String:
        values = [
            v if v is None or isinstance(v, str) else json.dumps(v) for v in values
        ]
    return pl.Series(name, values, dtype, strict=False)


def _curves(named: Mapping[str, Record]) -> pl.DataFrame:
    # A resumed run repeats the steps after its checkpoint: the last row wins.
    rows = [
        (name, by_step[step])
        for name, record in named.items()
        for by_step in [
            {row["step"]: row for row in record.rows if type(row.get("step")) is int}
        ]
        for step in sorted(by_step)
    ]
    metrics = sorted({key for _, row in rows for key in row} - {"step"})
    return pl.DataFrame(
        [
            pl.Series("run", [name for name, _ in rows], pl.String),
            pl.Series("step", [row["step"] for _, row in rows], pl.Int64),
            *(
                pl.Series(m, [row.get(m) for _, row in rows], pl.Float64, strict=False)
                for m in metrics
            ),
        ]
    )
