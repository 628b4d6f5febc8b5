"""Which rows of a table are in which split."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from runner.data.dataset import check_splits
from runner.errors import ConfigError, few

if TYPE_CHECKING:
    import polars as pl


def by_column(table: "pl.DataFrame", column: str) -> "dict[str, pl.DataFrame]":
    """The rows of each split that `column` names.

    Raises:
        ConfigError: it has other values than names of splits.
    """
    import polars as pl

    values = table[column].cast(pl.String)
    if values.null_count():
        raise ConfigError(
            f"data.splits={column}: {values.null_count()} rows are in no split"
        )
    names = values.unique().sort().to_list()
    try:
        check_splits(names)
    except ConfigError as error:
        raise ConfigError(
            f"data.splits={column} has the values {few(names)}. {error}"
        ) from error
    return {name: table.filter(values == name) for name in names}


def by_share(
    table: "pl.DataFrame",
    shares: Mapping[str, float],
    seed: int | None,
    group: str | None,
) -> "dict[str, pl.DataFrame]":
    """The rows of `train` and of each split with a share of all, in their own order.

    Args:
        table: All rows.
        shares: Fractions of the rows; with a group, of the groups.
        seed: Fixes which rows are drawn. None: the last ones, those of `test` last.
        group: A column; rows with one value of it are in one split.

    Raises:
        ConfigError: a share is no fraction, or so small that it has no rows.
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigError(
                f"data.splits.{name}={share} must be a fraction of the rows, above 0 "
                "and below 1, or a path, or null"
            )
    if sum(shares.values()) >= 1:
        given = ", ".join(f"{name}={share}" for name, share in shares.items())
        raise ConfigError(f"data.splits: {given} leave nothing to train on")
    if group is None:
        units = np.arange(len(table))
    else:
        if table[group].null_count():
            raise ConfigError(f"data.group={group} has missing values")
        units = np.unique(table[group].to_numpy(), return_inverse=True)[1]
    count = int(units.max()) + 1 if len(units) else 0
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(count)
    found, stop = {}, count
    for name, share in reversed(list(shares.items())):
        size = round(share * count)
        found[name] = order[stop - size : stop]
        stop -= size
        if not size:
            what = "rows" if group is None else f"values of {group}"
            raise ConfigError(
                f"data.splits.{name}={share} of {count} {what} is none; take more"
            )
    found["train"] = order[:stop]
    return {
        name: table.filter(np.isin(units, chosen))
        for name, chosen in reversed(list(found.items()))
    }
