"""Checkpoints that are there: which ones, whether they are whole, and what is in them.

A restore compares checksums before it reads anything. It imports Orbax.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from runner.core.snapshot import Snapshot, Start
from runner.errors import ConfigError, few
from runner.record import checksums
from runner.record.files import check_rows, read_object
from runner.trees import path_text

# The folder of the checkpoints within a run folder.
FOLDER = "checkpoints"


def steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def newest(
    folder: Path,
    only: int | None,
    target: Snapshot,
    program: dict,
    check: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Start:
    """Load the newest whole checkpoint in `folder`, with arrays like `target`.

    Args:
      only: load the checkpoint of this step instead of the newest.
      target: shapes, dtypes and shardings, which need not be those that were saved.
      program: that of `runner.core.program_spec.ProgramSpec`, its description.
      check: raises ValueError or OSError if what the checkpoint's record says of the
        run isn't so any more, such as its rows.

    Raises:
      ConfigError: it belongs to another model or optimizer, or none is whole.
    """
    found = steps(folder) if only is None else [only]
    for step in reversed(found):
        path = folder / str(step)
        try:
            record = whole_record(path)
            if not (path / checksums.FILE).exists():
                print(f"note: checkpoint {path} is from an earlier version of runner "
                      "and has no checksums, so nothing shows whether it is whole",
                      file=sys.stderr)  # fmt: skip
            if _is_of_run(path, record, check):
                return _restored(folder, step, target, program, record)
        except ConfigError:
            raise
        except Exception as error:  # from Orbax or the libraries below it
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"warning: checkpoint {path} is damaged, so it is skipped: {why}",
                  file=sys.stderr)  # fmt: skip
    if only is not None:
        raise ConfigError(f"checkpoint {folder / str(only)} can't be used")
    raise ConfigError(
        f"none of the checkpoints in {folder} can be used. To start over and lose what "
        "the run has recorded, remove the run folder"
    )


def checks_rows(metrics: Path) -> Callable[[dict[str, Any]], None]:
    """A check for `newest`: a run's rows begin with those that its record has."""

    def check(record: dict[str, Any]) -> None:
        if "rows" in record:  # earlier versions of runner didn't save it
            check_rows(metrics, record["rows"])

    return check


def _is_of_run(path: Path, record: dict, check: Callable[[dict], None]) -> bool:
    """Whether what `record` says of the run is still so; if not, warn."""
    try:
        check(record)
    except (OSError, ValueError) as error:
        print(f"warning: checkpoint {path} is skipped: {error}", file=sys.stderr)
        return False
    return True


def whole_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint all of whose files are as they were saved.

    Raises:
      ValueError, OSError: one isn't.
    """
    checksums.check_all(path)
    try:
        return read_object(path / "record" / "metadata")
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _restored(
    folder: Path, step: int, target: Snapshot, program: dict, record: dict[str, Any]
) -> Start:
    import orbax.checkpoint as ocp

    path = (folder / str(step)).absolute()
    _check(path, record, target, program)
    with ocp.StandardCheckpointer() as reader:
        restored = reader.restore(path / "state", without_empty(target))
    return Start(step, _with_empty(restored, target), record)


def without_empty(snapshot: Snapshot) -> dict[str, Any]:
    """`snapshot` with None for empty arrays, which Orbax doesn't save."""
    parts = jax.tree.map(lambda x: None if 0 in x.shape else x, snapshot)._asdict()
    return parts if snapshot.best else {k: v for k, v in parts.items() if k != "best"}


def _with_empty(restored: dict[str, Any], target: Snapshot) -> Snapshot:
    leaves = iter(jax.tree.leaves(Snapshot(**restored)))  # a dict's keys are sorted
    shapes, structure = jax.tree.flatten(target)
    filled = [
        jnp.zeros(x.shape, x.dtype, device=x.sharding) if 0 in x.shape else next(leaves)
        for x in shapes
    ]
    return jax.tree.unflatten(structure, filled)


def described(snapshot: Snapshot) -> list[list[Any]]:
    """Name, shape and dtype of each array, parameters first."""
    leaves = jax.tree.leaves_with_path(snapshot.carry)
    return [[_name(path), list(x.shape), str(x.dtype)] for path, x in leaves]


def _name(path: Any) -> str:
    name = path_text(path)
    return name.removeprefix("state/")


def _check(path: Path, record: dict, target: Snapshot, program: dict) -> None:
    """Refuse a checkpoint of another model or optimizer.

    Raises:
      ConfigError: names the first array, or the first choice, that differs.
    """
    there = {name: (tuple(s), dtype) for name, s, dtype in record["arrays"]}
    here = {name: (tuple(s), dtype) for name, s, dtype in described(target)}
    for name in here | there:
        if here.get(name) != there.get(name):
            was, now = (
                f"{found[name][1]}{list(found[name][0])}"
                if name in found
                else "nothing"
                for found in (there, here)
            )
            raise ConfigError(
                f"checkpoint {path} belongs to another model or optimizer: {name} is "
                f"{was} there, and {now} here"
            )
    for section in ("model", "framework", "optimizer"):
        was, now = (p[section].get("_target_") for p in (record["program"], program))
        if was != now:
            raise ConfigError(
                f"checkpoint {path} belongs to another {section}: {section}._target_ "
                f"is {was} there, and {now} here"
            )


def locate(path: Path) -> tuple[Path, int | None]:
    """Split checkpoint.resume=PATH into the run folder and the step, if given.

    Raises:
      ConfigError: PATH is neither a run folder with checkpoints nor one of them.
    """
    if path.name.isdecimal() and path.parent.name == FOLDER:
        if path.is_dir():
            return path.parent.parent, int(path.name)
        if kept := steps(path.parent):
            raise ConfigError(
                f"checkpoint.resume={path} isn't there: {path.parent} has "
                f"{few(map(str, kept))}, and checkpoint.keep says how many are kept"
            )
    found: Sequence[int] = steps(path / FOLDER)
    if not found:
        raise ConfigError(
            f"checkpoint.resume={path} must be auto, never, a run folder that has "
            f"checkpoints, or one of them, such as RUN/{FOLDER}/100"
        )
    return path, None
