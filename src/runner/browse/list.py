"""`python -m runner list`: the runs in folders, one a line."""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from runner.compare.columns import copies
from runner.compare.load import CHOICES, Runs, load
from runner.config.arguments import Parser
from runner.errors import ConfigError, did_you_mean, few
from runner.record.console import console, print_table
from runner.record.output import outlive_readers
from runner.record.terminal import number
from runner.record.untrusted import printable
from runner.settings import FACT, makes_no_difference

_EPILOG = """
example:
  python -m runner list multirun --where optimizer=adam status=finished \\
    --sort validation/loss

Exit status: 0, or 1 after an error.
"""
# Columns of `load` that say nothing about what was asked for.
_RESULTS = (FACT, "final.", "best.", "best_step.")
_OTHERS = {
    "run", "folder", "status", "error", "stopped", "wall_seconds", "compile_seconds",
    "step", "objective", "optimizer_probe", "format", "train.steps_per_epoch",
    "flops_per_step", "unchanged",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the runs in folders; returns the exit status, see `_EPILOG`.

    Args:
      arguments: those of the command line, by default from sys.argv.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        runs = load(options.folders)
        found = listed(runs, options.where, options.sort, options.show)
    except ConfigError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    header = [name.removeprefix("final.") for name in found.columns]
    rows = [
        [_text(name, value) for name, value in zip(header, row, strict=True)]
        for row in found.rows()
    ]
    print_table(header, rows, console(), named=True)
    for problem in runs.problems:
        print(problem, file=sys.stderr)
    return 0


def listed(
    runs: Runs, where: Sequence[str], sort: str | None, show: Sequence[str]
) -> pl.DataFrame:
    """A row for each run: its name, status and last step, settings and results.

    Args:
      runs: those that were found.
      where: `key=value` pairs that a run has to have, all of them.
      sort: the key or metric to sort by, `-` before it for descending order; None: the
        names of the runs. Runs without it come last.
      show: the keys and metrics to show; none: the settings that vary, and the final
        value of what the runs are chosen by.

    Raises:
      ConfigError: no run has such a key or such a value, or a pair isn't one.
    """
    steps = runs.curves.group_by("run").agg(pl.col("step").max())
    table = runs.table.join(steps, on="run", how="left", maintain_order="left")
    for i, pair in enumerate(where):
        key, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"--where {pair} must be KEY=VALUE, such as seed=0")
        column = table[_column(table, key, "--where")]
        texts = column.cast(pl.String)
        table = table.filter(texts.eq_missing(_as(column, value)))
        if table.is_empty():
            before = " ".join(where[:i])
            those = f"no run with {before}" if before else "no run"
            found = texts.fill_null("null").unique(maintain_order=True)
            raise ConfigError(
                f"--where {pair}: {those} has it; {key} is {few(found)}."
                + did_you_mean(value, found)
            )
    if sort is not None:
        name = _column(table, sort.removeprefix("-"), "--sort")
        down = sort.startswith("-")
        table = table.sort(name, descending=down, nulls_last=True, maintain_order=True)
    names = [_column(table, key, "--show") for key in show]
    return table.select(["run", "status", "step", *(names or _default(table))])


def _default(table: pl.DataFrame) -> list[str]:
    """The settings that vary and may make a difference, and the final objectives.

    Those that refer to another, which is shown, are left out.
    """
    settings = [
        name
        for name in table.columns
        if not name.startswith(_RESULTS)
        and name not in _OTHERS
        and not makes_no_difference(name)
    ]
    # A run that ended before it had a configuration lacks all settings.
    known = table.filter(pl.any_horizontal(pl.col(settings).is_not_null()))
    followed = copies(known)
    varying = [
        name for name in settings if name not in followed and known[name].n_unique() > 1
    ]
    settings = [name for name in varying if _varies_by_itself(known, name)]
    objectives = table.select(pl.col("^objective$")).unique(maintain_order=True)
    finals = [f"final.{name}" for (name,) in objectives.rows()]
    return [*settings, *(name for name in finals if name in table.columns)]


def _varies_by_itself(table: pl.DataFrame, name: str) -> bool:
    """Whether a setting varies among runs with one choice of its group, if it has one.

    What another choice brings along isn't a setting of its own.
    """
    group = name.partition(".")[0]
    if group == name or group not in CHOICES:
        return True
    return any(table.group_by(group).agg(pl.col(name).n_unique() > 1)[name])


def _column(table: pl.DataFrame, key: str, option: str) -> str:
    """The column for a key of the configuration or the name of a metric."""
    for name in (key, f"final.{key}"):
        if name in table.columns:
            return name
    names = [name.removeprefix("final.") for name in table.columns]
    raise ConfigError(f"{option} {key}: no run has it.{did_you_mean(key, names)}")


def _as(column: pl.Series, value: str) -> str | None:
    """`value` as a text of `column` is; null is what a run lacks."""
    if value == "null":
        return None
    if column.dtype == pl.Boolean:
        return value.lower()
    if column.dtype.is_numeric():
        try:
            number = int(value) if column.dtype.is_integer() else float(value)
            return pl.Series([number], dtype=column.dtype).cast(pl.String)[0]
        except (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError):
            return value
    return value


def _text(name: str, value: object) -> str:
    return "" if value is None else number(name, value)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner list",
        description="List the runs in folders. It only reads files of runs.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="run folders, sweep folders, or folders that hold them",
    )
    add(
        "--where",
        nargs="+",
        default=(),
        metavar="KEY=VALUE",
        help="only runs with these settings; null for what they lack",
    )
    add(
        "--sort",
        metavar="KEY",
        help="a setting or a metric, such as validation/loss; --sort=-KEY: descending",
    )
    add(
        "--show",
        nargs="+",
        default=(),
        metavar="KEY",
        help="settings and metrics to show: by default those that vary, and the "
        "objective",
    )
    return parser


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
