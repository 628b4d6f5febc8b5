"""A table of one's own as a `Dataset`."""

from typing import TYPE_CHECKING, Literal

from runner.data.dataset import (
    MODES,
    Dataset,
    MemorySplit,
    check_batch_size,
    check_choice,
    check_mode,
    check_splits,
    chosen_mode,
)
from runner.data.table.encode import encoded
from runner.data.table.read import read
from runner.data.table.roles import Roles, roles
from runner.data.table.split import by_column, by_share
from runner.data.transforms import Transform
from runner.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl


def table(
    *,
    path: str,
    target: str | None,
    inputs: list[str] | None,
    categorical: list[str],
    weight: str | None,
    ignored: list[str],
    group: str | None,
    splits: dict[str, float | str | None] | str,
    split_seed: int | None,
    standardize: bool,
    encode: Literal["onehot", "integers"],
    missing: Literal["refuse", "impute"],
    separator: str,
    header: bool,
    null_values: list[str],
    transforms: list[Transform],
    batch_size: int,
    reshuffle: bool,
    mode: Literal["auto", "device", "memory"],
    device_limit_mb: float,
) -> Dataset:
    """The rows of CSV, Parquet or NumPy files, for task=classification or regression.

    An example has the columns
    - `input`, float32: all inputs that are numbers, then a one-hot vector for each that
      isn't, both in the order of the table;
    - `label`, int32, the place of the target among its sorted values, if it is text or
      whole numbers; and `target`, float32, if it is numbers;
    - `weight`, float32, if there is one.

    Args:
        path: A file, a folder or a glob; files have the same columns. See `read`.
        target: The column to predict. None: there is none.
        inputs: The columns to learn from. None: all that have no other role.
        categorical: Those of them that are numbers but stand for names.
        weight: The column with the weight of each row in the loss.
        ignored: Columns that aren't read.
        group: Rows with one value of this column are in one split.
        splits: For validation, test and others: a fraction of the rows, or the path of
            their own rows, or None. Or the column that names the split of each row.
        split_seed: Fixes the rows of fractions. None: the last rows.
        standardize: Inputs that are numbers get mean 0 and standard deviation 1, both
            those of the training split.
        encode: How inputs that are names are given. "integers": each as a column of its
            own, int32, with the place among the sorted values; a model with several
            inputs is needed.
        missing: "impute": the mean of the training split for numbers, "unknown" for
            names, which is what values are that training doesn't have: a vector of
            zeros, or the last integer.
        separator: Of the columns of CSV files.
        header: Whether the first line of CSV files has the names of the columns.
        null_values: What stands for a missing value in CSV files.
        transforms, batch_size, reshuffle: See `Dataset`.
        mode, device_limit_mb: See `chosen_mode`.

    Raises:
        ConfigError: a mistake in the config, with its key.
    """
    check_batch_size(batch_size)
    check_mode(mode, ("auto", *MODES[:2]))
    check_choice("encode", encode, ("onehot", "integers"))
    check_choice("missing", missing, ("refuse", "impute"))
    form = {"separator": separator, "header": header, "null_values": null_values}
    if strange := [value for value in null_values if not isinstance(value, str)]:
        raise ConfigError(
            f"data.null_values={strange[0]} must be text, as it is written in the "
            "file: put it into quotes"
        )
    if len(separator.encode()) != 1:
        raise ConfigError(f"data.separator={separator!r} must be one character")
    asked = {} if isinstance(splits, str) else splits
    paths = {k: v for k, v in asked.items() if isinstance(v, str)}
    shares = {k: v for k, v in asked.items() if isinstance(v, int | float)}
    check_splits(["train", *asked])
    for k, v in asked.items():
        if not (v is None or k in paths or k in shares):
            raise ConfigError(
                f"data.splits.{k}={v} must be a fraction of the rows, a path or null"
            )
    if "train" in asked:
        raise ConfigError("data.splits.train can't be set: it has what others leave")
    whole, files = read("data.path", path, **form)
    own = {k: read(f"data.splits.{k}", v, **form) for k, v in paths.items()}
    found = roles(
        whole,
        inputs=inputs,
        ignored=ignored,
        categorical=categorical,
        target=target,
        weight=weight,
        group=group,
        splits=splits if isinstance(splits, str) else None,
    )
    if isinstance(splits, str):
        tables = by_column(whole, splits)
    else:
        tables = by_share(whole, shares, split_seed, group)
    tables |= {k: _same(k, other, whole, found) for k, (other, _) in own.items()}
    for name, rows in tables.items():
        if not len(rows):
            raise ConfigError(f"data: the split {name} has no rows")
    made = encoded(
        tables, found, standardize=standardize, encode=encode, missing=missing
    )
    arrays = [x for columns in made.splits.values() for x in columns.values()]
    sizes = {"device": sum(x.nbytes for x in arrays) / 2**20, "memory": 0.0}
    return Dataset(
        name=path,
        splits={name: MemorySplit(columns) for name, columns in made.splits.items()},
        classes=made.classes,
        batch_size=batch_size,
        mode=chosen_mode(mode, sizes, device=device_limit_mb, memory=0.0),
        transforms=transforms,
        files=[*files, *(file for _, each in own.values() for file in each)],
        reshuffle=reshuffle,
    )


def _same(
    split: str, table: "pl.DataFrame", whole: "pl.DataFrame", found: Roles
) -> "pl.DataFrame":
    """The columns of `table` that are used, if their types are those of `whole`."""
    import polars as pl

    single = [name for name in (found.target, found.weight) if name is not None]
    names = [*found.numbers, *found.categories, *single]
    if lacking := [name for name in names if name not in table.columns]:
        raise ConfigError(
            f"data.splits.{split}: its files lack the columns {', '.join(lacking)}"
        )
    for name in names:
        one, other = whole[name].dtype, table[name].dtype
        if one != other and not (one.is_numeric() and other.is_numeric()):
            if other != pl.Null and name not in found.categories:
                raise ConfigError(
                    f"data.splits.{split}: the column {name} is {other}, and {one} in "
                    "data.path"
                )
    return table.select(names)
