"""Checksums beside files, in the format of sha256sum, which can check them too."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from runner.errors import ConfigError
from runner.record.files import write_bytes

FILE = "checksums.txt"
# The files of a run folder that are listed. The state has a checksum of its own.
RECORDS = ("config.json", "provenance.json", "summary.json", "metrics.jsonl")


def write(
    folder: Path, names: Iterable[str], known: Mapping[str, str] = {}
) -> dict[str, str]:
    """List these files of `folder`, whole or not at all; returns their checksums.

    Args:
      known: checksums that need not be computed.

    Raises:
      OSError: one can't be read, the disk is full or the folder can't be written.
    """
    sums = {name: known.get(name) or _sha256(folder / name) for name in names}
    lines = [f"{found}  {name}\n" for name, found in sums.items()]
    write_bytes(folder / FILE, "".join(lines).encode())
    return sums


def files_below(folder: Path) -> list[str]:
    """The names of all files below `folder`, in order, but for hidden ones and FILE."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(n) for n in found if n.name[0] != "." and str(n) != FILE)


def check_all(folder: Path) -> None:
    """Compare all files below the folders in `folder` with their checksums.

    Those of `folder` itself are compared if they are listed. Does nothing without
    FILE, which earlier versions of runner didn't write.

    Raises:
      ValueError: a file isn't as it was written, is missing or isn't listed.
      OSError: one can't be read.
    """
    sums = _read(folder)
    if not sums:
        return
    # A process that was killed right then hasn't listed the folder's own files.
    unlisted = [n for n in files_below(folder) if "/" in n and n not in sums]
    odd = [*_altered(folder, sums), *unlisted]
    if odd:
        raise ValueError(f"{odd[0]} doesn't have the checksum that it was saved with")


def check_records(folder: Path, names: Collection[str] = RECORDS) -> None:
    """Compare the records of a run folder with their checksums, if it has any.

    Those of a run that was killed, or is from an earlier version of runner, have none.

    Args:
      names: those that matter.

    Raises:
      ConfigError: one isn't as the run wrote it.
      OSError: one can't be read.
    """
    path = folder / FILE
    try:
        sums = _read(folder)
        if not set(RECORDS).issuperset(sums):
            raise ValueError("another folder's")
        used = {name: found for name, found in sums.items() if name in names}
        odd = [folder / name for name in _altered(folder, used)]
    except ValueError:
        odd = [path]
    if odd:
        raise ConfigError(
            f"{odd[0]} isn't as the run wrote it: it was edited or is damaged. Bring "
            f"it back, or remove {path} to use all as it is now"
        )


def _altered(folder: Path, sums: Mapping[str, str]) -> list[str]:
    return [
        name
        for name, found in sums.items()
        if not (folder / name).is_file() or _sha256(folder / name) != found
    ]


def _read(folder: Path) -> dict[str, str]:
    """The checksums of `folder`, by name; {} if it has none.

    Raises:
      ValueError: it isn't a list of checksums.
      OSError: it can't be read.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    if not path.is_file():
        raise ValueError(f"{FILE} is not a file")
    text = path.read_text(encoding="utf-8")
    lines = [line.partition("  ") for line in text.split("\n")[:-1]]
    sums = {name: found for found, _, name in lines}
    if "" in sums or not sums or not text.endswith("\n"):
        raise ValueError(f"{FILE} isn't a list of checksums")
    return sums


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
