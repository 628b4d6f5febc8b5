"""Reads tables from CSV, Parquet and NumPy files."""

import codecs
import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runner.data.files import find_files
from runner.errors import ConfigError, few

if TYPE_CHECKING:
    import polars as pl

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".npy", ".npz")
_LINE_BYTES = 1 << 16  # of a first line


def read(
    key: str, path: str, *, separator: str, header: bool, null_values: Sequence[str]
) -> "tuple[pl.DataFrame, list[Path]]":
    """The rows of all files that `path` stands for, and these files.

    Args:
        key: That of the configuration, for the messages.
        path: See `find_files`.
        separator: Of the columns of a CSV file; .tsv has tabs.
        header: Whether the first line of a CSV file has the columns' names; else they
            are column_0, column_1, ...
        null_values: What stands for a missing value in a CSV file.

    Raises:
        ConfigError: a file isn't what its ending says, or they have different columns.
    """
    import polars as pl

    files = find_files(key, path, ENDINGS)
    tables = []
    for file in files:
        ending = Path(file.name.lower().removesuffix(".gz")).suffix
        if not file.name.lower().endswith(ENDINGS):
            raise ConfigError(
                f"{key}={path}: {file} must end with one of {', '.join(ENDINGS)}"
            )
        try:
            if ending == ".parquet":
                tables.append(pl.read_parquet(file))
            elif ending in (".npy", ".npz"):
                tables.append(_numpy(key, file))
            else:
                _check_encoding(file)
                tables.append(
                    pl.read_csv(
                        file,
                        separator="\t" if ending == ".tsv" else separator,
                        has_header=header,
                        null_values=list(null_values),
                        infer_schema_length=None,  # from all lines
                    )
                )
        except (
            pl.exceptions.PolarsError,
            zipfile.BadZipFile,
            ValueError,
            OSError,
            EOFError,
        ) as error:
            raise ConfigError(f"{key}={path}: {file} can't be read: {error}") from error
        _check_same(key, files[0], tables[0], file, tables[-1])
    try:
        return pl.concat(tables, how="vertical_relaxed"), files
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"{key}={path}: its files have columns of different types: {error}"
        ) from error


def _check_encoding(file: Path) -> None:
    """Refuse names that aren't UTF-8, of which polars would replace what it can't read.

    Raises:
        ValueError: says so. Values that aren't are an error of polars'.
    """
    with (gzip.open if file.suffix.lower() == ".gz" else open)(file, "rb") as opened:
        line = opened.readline(_LINE_BYTES)
    try:  # a long line ends within a letter
        text = codecs.getincrementaldecoder("utf-8")().decode(line)
        is_utf_8 = "\0" not in text  # as UTF-16 of English letters has it
    except UnicodeDecodeError:
        is_utf_8 = False
    if not is_utf_8:
        raise ValueError("its first line isn't text in UTF-8; save it as UTF-8")


def _check_same(
    key: str, one: Path, first: "pl.DataFrame", other: Path, table: "pl.DataFrame"
) -> None:
    if table.columns != first.columns:
        differing = sorted(set(first.columns) ^ set(table.columns))
        raise ConfigError(
            f"{key}: {one} and {other} have different columns"
            + (f": {few(differing)}" if differing else ", in another order")
        )


def _numpy(key: str, file: Path) -> "pl.DataFrame":
    """Columns by the names of arrays or fields, with `_0`, `_1`, ... in wider ones."""
    import polars as pl

    with file.open("rb") as opened:
        found = np.load(opened)  # without pickles, which could run anything
        if isinstance(found, np.ndarray):
            fields = found.dtype.names
            arrays = {k: found[k] for k in fields} if fields else {"column": found}
        else:
            arrays = {name: found[name] for name in found.files}
    columns: list[tuple[str, np.ndarray]] = []
    for name, array in arrays.items():
        if array.ndim not in (1, 2):
            raise ConfigError(
                f"{key}: {file} has the array {name} of shape {array.shape}; a "
                "table has one or two dimensions. data=source takes any examples"
            )
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        wide = array.ndim == 2 and (array.shape[1] > 1 or name == "column")
        parts = array.reshape(len(array), -1).T
        names = [f"{name}_{i}" if wide else name for i in range(len(parts))]
        columns += zip(names, parts, strict=True)
    if len({len(column) for _, column in columns}) > 1:
        sizes = [f"{name} {len(column)}" for name, column in columns]
        raise ConfigError(f"{key}: {file} has arrays of different lengths: "
                          f"{few(sizes)}")  # fmt: skip
    # A list, of which no name is lost that two arrays have.
    return pl.DataFrame([pl.Series(k, np.ascontiguousarray(v)) for k, v in columns])
