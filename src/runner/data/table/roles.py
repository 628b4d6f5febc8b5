"""Which columns of a table are what, checked against those that there are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.errors import ConfigError, did_you_mean, few

if TYPE_CHECKING:
    import polars as pl

# The columns of an example, beside those of categories as integers.
NAMES = ("input", "label", "target", "weight")
_LOOKS_LIKE_NUMBERS = 0.5  # of the values of a column of text


class Roles(NamedTuple):
    """The columns of each role.

    Attributes:
        numbers: inputs that are numbers.
        categories: inputs that are names of something.
        target: what is predicted, or None.
        weight: how much an example counts, or None.
    """

    numbers: list[str]
    categories: list[str]
    target: str | None
    weight: str | None


def roles(
    table: "pl.DataFrame",
    *,
    inputs: Sequence[str] | None,
    ignored: Sequence[str],
    categorical: Sequence[str],
    **single: str | None,
) -> Roles:
    """The roles of the columns of `table`.

    Args:
        table: all of it.
        inputs: None: all columns without another role.
        ignored: Columns that aren't read.
        categorical: Inputs that are numbers but stand for names.
        single: `target`, `weight`, `group` and `splits`, each a column or None.

    Raises:
        ConfigError: there is no such column, or it can't have its role.
    """
    given = {key: [name] for key, name in single.items() if name is not None}
    given |= {"inputs": list(inputs or ()), "ignored": list(ignored)}
    for key, names in [*given.items(), ("categorical", categorical)]:
        for name in names:
            if name not in table.columns:
                raise ConfigError(
                    f"data.{key}={name} is not a column of the table, which has "
                    f"{few(table.columns)}.{did_you_mean(str(name), table.columns)}"
                )
    _check_one_role(given)
    used = {name for names in given.values() for name in names}
    chosen = list(inputs or (name for name in table.columns if name not in used))
    if not chosen:
        raise ConfigError("data.inputs: no column is left to be an input")
    for name in categorical:
        if name not in chosen:
            raise ConfigError(f"data.categorical={name} is not one of data.inputs")
    names = {
        name
        for name in chosen
        if name in categorical or is_name(table[name], "data.inputs")
    }
    return Roles(
        numbers=[name for name in chosen if name not in names],
        categories=[name for name in chosen if name in names],
        target=single["target"],
        weight=single["weight"],
    )


def _check_one_role(given: dict[str, list[str]]) -> None:
    found: dict[str, str] = {}
    for key, names in given.items():
        for name in names:
            if name in found:
                raise ConfigError(
                    f"data.{key}={name} is data.{found[name]} already; a column has "
                    "one role"
                )
            found[name] = key


def is_name(column: "pl.Series", key: str) -> bool:
    """Whether `column`, which `key` names, holds names rather than numbers.

    Raises:
        ConfigError: it holds neither, or nothing, or numbers but for a few.
    """
    import polars as pl

    if column.dtype.is_numeric():
        return False
    if column.dtype in (pl.Boolean, pl.Categorical, pl.Enum):
        return True
    if column.dtype == pl.Null:
        raise ConfigError(
            f"{key}={column.name}: all of its values are missing. Put it into "
            "data.ignored"
        )
    if column.dtype != pl.String:
        raise ConfigError(
            f"{key}={column.name} is {column.dtype}, neither numbers nor text. Put it "
            "into data.ignored, or convert it"
        )
    numbers = column.cast(pl.Float64, strict=False)
    others = column.filter(numbers.is_null() & column.is_not_null())
    share = numbers.is_not_null().mean()
    if len(others) and isinstance(share, float) and share > _LOOKS_LIKE_NUMBERS:
        raise ConfigError(
            f"{key}={column.name} is numbers but for {few(others.unique().sort())}. "
            "Add what stands for a missing value to data.null_values, or name the "
            "column in data.categorical"
        )
    return True
