"""Columns of a table as arrays: what is learned from, from the training split alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from runner.data.bits import check_32_bits
from runner.data.table.roles import NAMES, Roles, is_name
from runner.errors import ConfigError, few

if TYPE_CHECKING:
    import polars as pl

MOST_CATEGORIES = 1000  # of a column of inputs as one-hot vectors
MOST_CLASSES = 10_000


class Encoded(NamedTuple):
    """The arrays `[rows, ...]` of each split, and the number of classes of columns."""

    splits: dict[str, dict[str, np.ndarray]]
    classes: dict[str, int]


def encoded(
    splits: "Mapping[str, pl.DataFrame]",
    roles: Roles,
    *,
    standardize: bool,
    encode: Literal["onehot", "integers"],
    missing: Literal["refuse", "impute"],
) -> Encoded:
    """The columns of all `splits`, as `table` describes them.

    Raises:
        ConfigError: a column has values that its role excludes.
    """
    _check_missing(splits, roles, missing)
    parts = {name: [] for name in splits}
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in splits}
    classes: dict[str, int] = {}
    for name in roles.numbers:
        for split, values in _numbers(splits, name, standardize).items():
            parts[split].append(values[:, None])
    for name in roles.categories:
        size, found = _categories(splits, name)
        if encode == "onehot":
            if size > MOST_CATEGORIES:
                raise ConfigError(
                    f"data.inputs={name} has {size} categories, and at most "
                    f"{MOST_CATEGORIES} become one-hot vectors. Put it into "
                    "data.ignored, or set data.encode=integers"
                )
            for split, values in found.items():
                parts[split].append(np.eye(size, size + 1, dtype=np.float32).T[values])
            continue
        if name in NAMES:
            raise ConfigError(
                f"data.encode=integers: the column {name} has the name of another "
                "column of examples; rename it"
            )
        classes[name] = size + 1
        for split, values in found.items():
            columns[split][name] = values
    for split, inputs in parts.items():
        if inputs:
            columns[split]["input"] = np.concatenate(inputs, axis=1)
    if roles.target is not None:
        _add_target(splits, roles.target, columns, classes)
    if roles.weight is not None:
        for split, table in splits.items():
            columns[split]["weight"] = _weights(table, split, roles.weight)
    return Encoded(columns, classes)


def _check_missing(
    splits: "Mapping[str, pl.DataFrame]", roles: Roles, missing: str
) -> None:
    inputs = [*roles.numbers, *roles.categories]
    for name in [*inputs, roles.target, roles.weight]:
        if name is None:
            continue
        counts = {k: _is_missing(table[name]).sum() for k, table in splits.items()}
        total = sum(counts.values())
        if name not in inputs and total:
            raise ConfigError(
                f"data: {name} is missing in {total} rows, which can't be learned "
                "from; leave them out of the files"
            )
        if counts["train"] == len(splits["train"]):
            raise ConfigError(
                f"data.inputs={name}: all of its values in train are missing. Put it "
                "into data.ignored"
            )
        if total and missing == "refuse":
            where = ", ".join(f"{count} in {k}" for k, count in counts.items() if count)
            raise ConfigError(
                f"data: {name} has missing values: {where}. data.missing=impute "
                "replaces them, data.ignored leaves the column out"
            )


def _is_missing(column: "pl.Series") -> np.ndarray:
    missing = column.is_null()
    if column.dtype.is_float():
        missing = missing | column.is_nan().fill_null(True)
    return missing.to_numpy()


def _numbers(
    splits: "Mapping[str, pl.DataFrame]", name: str, standardize: bool
) -> dict[str, np.ndarray]:
    """The column `name`; what is missing gets the mean of the training split."""
    import polars as pl

    columns = {k: table[name].cast(pl.Float64) for k, table in splits.items()}
    values = {k: column.fill_null(np.nan).to_numpy() for k, column in columns.items()}
    for split, found in values.items():
        if np.isinf(found).any():
            raise ConfigError(
                f"data.inputs={name} has {np.isinf(found).sum()} infinite values in "
                f"{split}"
            )
        check_32_bits(f"data.inputs={name}: {split} has rows", found)
    train = values["train"]
    if np.nanmin(train) == np.nanmax(train):
        raise ConfigError(
            f"data.inputs={name} is {np.nanmin(train):g} in all rows of train, so "
            "nothing can be learned from it. Put it into data.ignored"
        )
    mean = np.nanmean(train)
    subtract, divide = (mean, np.nanstd(train)) if standardize else (0.0, 1.0)
    return {
        k: ((np.where(np.isnan(x), mean, x) - subtract) / divide).astype(np.float32)
        for k, x in values.items()
    }


def _categories(
    splits: "Mapping[str, pl.DataFrame]", name: str
) -> tuple[int, dict[str, np.ndarray]]:
    """The number of categories in the training split, and the place of each row's.

    Places follow the sorted categories; what is missing, or isn't in the training
    split, comes after them all.
    """
    import polars as pl

    kinds = {table[name].dtype for table in splits.values()}
    # As text a whole number of one file, 1, is another than that of another, 1.0.
    is_mixed = len(kinds) > 1 and all(kind.is_numeric() for kind in kinds)
    if is_mixed and any(kind.is_float() for kind in kinds):
        splits = {k: table.cast({name: pl.Float64}) for k, table in splits.items()}
    columns = {k: table[name].cast(pl.String) for k, table in splits.items()}
    known = columns["train"].drop_nulls().unique().sort().to_list()
    if len(known) < 2:
        raise ConfigError(
            f"data.inputs={name} is {few(known)} in all rows of train, so nothing can "
            "be learned from it. Put it into data.ignored"
        )
    places = {value: place for place, value in enumerate(known)}
    found = {
        k: np.array([places.get(v, len(known)) for v in column], np.int32)
        for k, column in columns.items()
    }
    return len(known), found


def _add_target(
    splits: "Mapping[str, pl.DataFrame]",
    name: str,
    columns: dict[str, dict[str, np.ndarray]],
    classes: dict[str, int],
) -> None:
    """Adds `label` and `target`, whichever of them the values can be."""
    import polars as pl

    found = {split: table[name] for split, table in splits.items()}
    kinds = {column.dtype for column in found.values()}
    # Whole numbers of one type stay: from 2**53 on, floats aren't all different.
    is_whole = len(kinds) == 1 and all(kind.is_integer() for kind in kinds)
    if all(kind.is_numeric() for kind in kinds) and not is_whole:
        found = {split: column.cast(pl.Float64) for split, column in found.items()}
    whole = pl.concat(list(found.values()))
    known = whole.unique().sort()
    if len(known) < 2:
        raise ConfigError(
            f"data.target={name} is {few(map(str, known))} in all rows, so there is "
            "nothing to learn"
        )
    is_number = not is_name(whole, "data.target")
    numbers = known.cast(pl.Float64).to_numpy() if is_number else np.zeros(1)
    if not np.isfinite(numbers).all():
        raise ConfigError(f"data.target={name} has infinite values")
    check_32_bits(f"data.target={name} has rows", numbers)
    if len(known) <= MOST_CLASSES and (numbers == np.round(numbers)).all():
        classes["label"] = len(known)
        places = {value: place for place, value in enumerate(known)}
        for split, column in found.items():
            labels = [places[value] for value in column]
            columns[split]["label"] = np.array(labels, np.int32)
    if is_number:
        for split, column in found.items():
            columns[split]["target"] = column.to_numpy().astype(np.float32)


def _weights(table: "pl.DataFrame", split: str, name: str) -> np.ndarray:
    import polars as pl

    if not table[name].dtype.is_numeric():
        raise ConfigError(f"data.weight={name} is {table[name].dtype}, not numbers")
    values = table[name].cast(pl.Float32).to_numpy()
    if not (np.isfinite(values) & (values >= 0)).all() or not values.any():
        raise ConfigError(
            f"data.weight={name} must be at least 0 and finite in {split}, and above 0 "
            "in a row"
        )
    return values
