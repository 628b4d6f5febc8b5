"""`init_from`: initial values from the state of another run, or from a file."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.core.pipeline import TrainState
from runner.core.warm_start import WarmStart
from runner.errors import ConfigError, few
from runner.job.session import Session
from runner.record.files import STATE
from runner.record.state import arrays_in
from runner.record.untrusted import one_line, read_bytes, read_foreign
from runner.trees import is_found, path_text

_SHOWN = 6


class Taken(NamedTuple):
    """What a run takes from a file.

    Attributes:
      start: the values.
      facts: for its provenance: the file, its checksum, and by the reason the arrays
        that weren't taken.
      text: a line or two about it.
      missing: why the file can't be read any more, in a run that may resume without it.
    """

    start: WarmStart
    facts: dict[str, Any]
    text: str
    missing: str = ""


class _File(NamedTuple):
    """A file's place, its checksum, and its arrays by their names."""

    path: Path
    sha256: str
    arrays: dict[str, np.ndarray]


def take(
    name: str,
    exclude: Sequence[str],
    rename: Sequence[Sequence[str]],
    shapes: TrainState,
    session: Session,
    earlier: dict[str, Any] | None,
) -> Taken:
    """The arrays of a file that a model has by the same names and shapes.

    Args:
      name: `init_from`: a run folder, or a safetensors file such as a run leaves.
      exclude: patterns of parameters that keep their own initial values.
      rename: pairs of a pattern of names in the file and its replacement, in turn.
      shapes: of the model's arrays.
      session: keeps what is read, for the other jobs of a sweep.
      earlier: the facts that an earlier process of the run recorded, if it has saved a
        checkpoint: it may resume without the file.

    Raises:
      ConfigError: there is no such file, it is damaged, or nothing of it is taken.
    """
    path = Path(name).absolute()
    path = path / STATE if path.is_dir() else path
    try:
        stat = path.stat()
        key = "init_from", path, stat.st_mtime_ns, stat.st_size, stat.st_ino
        file = session.keep(key, lambda: _read(path, stat.st_size))
    except OSError as error:
        hint = ""
        if path.name == STATE:
            hint = (
                ": a run folder gets that file when the run has finished; runner "
                "export writes it from a checkpoint"
            )
        text = f"init_from={name} can't be read: {path}: {error.strerror}{hint}"
        if earlier is None:
            raise ConfigError(one_line(text)) from None
        flags = jax.tree.map(lambda x: np.bool_(False), shapes)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return Taken(WarmStart(zeros, flags), earlier, "", one_line(text))
    except ValueError as error:
        raise ConfigError(f"init_from={name}: {one_line(error)}") from None
    return _taken(name, exclude, shapes, file._replace(arrays=_named(file, rename)))


def _read(path: Path, size: int) -> _File:
    data = read_bytes(path, size)
    summary = path.with_name("summary.json")  # of a run folder
    own = None
    if path.name == STATE and summary.is_file():
        own = read_foreign(summary).get("state_sha256")
    arrays = arrays_in(path, data, foreign=True, own=own)
    return _File(path, hashlib.sha256(data).hexdigest(), arrays)


def _named(file: _File, rename: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """The arrays of a file by their names after `rename`."""
    arrays = file.arrays
    for pattern, replacement in rename:
        if not any(is_found(pattern, key) for key in arrays):
            raise ConfigError(
                f"init_rename: {pattern!r} matches none of {few(arrays, _SHOWN)}"
            )
        try:
            names = {key: re.sub(pattern, replacement, key) for key in arrays}
        except (re.error, IndexError) as error:
            text = f"init_rename: {replacement!r} can't replace {pattern!r}: {error}"
            raise ConfigError(text) from None
        twice = [key for key, new in names.items()
                 if [*names.values()].count(new) > 1]  # fmt: skip
        if twice:
            raise ConfigError(
                f"init_rename: {few(twice, _SHOWN)} would all be {names[twice[0]]}"
            )
        arrays = {names[key]: x for key, x in arrays.items()}
    return arrays


def _taken(name: str, exclude: Sequence[str], shapes: TrainState, file: _File) -> Taken:
    leaves, structure = jax.tree.flatten_with_path(shapes)
    reasons: dict[str, list[str]] = {
        "excluded": [], "not in the file": [], "of another shape or type": [],
    }  # fmt: skip
    values, flags, used = [], [], set()
    _check_patterns(exclude, [path_text(path) for path, _ in leaves])
    for path, x in leaves:
        own = path_text(path)
        found = file.arrays.get(own)
        reason = _reason(own, x, found, exclude)
        if found is not None:
            used.add(own)
        if reason:
            reasons[reason].append(_text(own, x.shape, reason, found))
        zeros = np.zeros(x.shape, x.dtype)
        values.append(zeros if found is None or reason else found.astype(x.dtype))
        flags.append(np.bool_(not reason))
    unused = [one_line(key) for key in file.arrays if key not in used]
    reasons = {k: v for k, v in (reasons | {"without a partner": unused}).items() if v}
    count = sum(map(int, flags))
    notes = [f"{k}: {few(v, _SHOWN)}" for k, v in reasons.items()]
    if not count:
        raise ConfigError(
            f"init_from={name} has nothing that this model could start from. "
            + ". ".join(notes)
        )
    trees = (jax.tree.unflatten(structure, part) for part in (values, flags))
    facts = {"path": str(file.path), "sha256": file.sha256, "taken": count}
    text = f"init_from: {count} of {len(leaves)} arrays are those of {file.path}"
    return Taken(WarmStart(*trees), facts | reasons, "; ".join([text, *notes]))


def _reason(name: str, x: Any, found: np.ndarray | None, exclude: Sequence[str]) -> str:
    """Why an array isn't taken; empty if it is."""
    if any(is_found(pattern, _own_path(name)) for pattern in exclude):
        return "excluded"
    if found is None:
        return "not in the file"
    kinds = [
        jax.numpy.issubdtype(d, jax.numpy.floating) for d in (x.dtype, found.dtype)
    ]
    alike = kinds[0] == kinds[1] and (kinds[0] or x.dtype == found.dtype)
    return "" if alike and x.shape == found.shape else "of another shape or type"


def _text(name: str, shape: tuple, reason: str, found: np.ndarray | None) -> str:
    if found is None or reason == "excluded":
        return name
    return f"{name} {list(shape)} (in the file {found.dtype}{list(found.shape)})"


def _own_path(name: str) -> str:
    """The path of an array in its part of the state, such as `dense_0/kernel`."""
    return name.partition("/")[2]


def _check_patterns(exclude: Sequence[str], names: Sequence[str]) -> None:
    for pattern in exclude:
        if not any(is_found(pattern, _own_path(name)) for name in names):
            shown = few(map(_own_path, names), _SHOWN)
            raise ConfigError(f"init_exclude: {pattern!r} matches none of {shown}")


def check_same(recorded: Mapping[str, Any], here: Taken | None) -> None:
    """Refuse a file that isn't the one with which a recorded run started.

    Args:
      recorded: the run's provenance.

    Raises:
      ConfigError: its checksum is another.
    """
    then = recorded.get("init_from")
    was = then.get("sha256") if isinstance(then, dict) else None
    if here is not None and was is not None and was != here.facts["sha256"]:
        raise ConfigError(
            f"init_from: {here.facts['path']} isn't the file that the run started "
            f"from: its sha256 is {here.facts['sha256'][:12]}..., and was "
            f"{one_line(was)[:12]}... Bring that one back"
        )
