"""`python -m runner.compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from runner.compare import load, load_wandb
from runner.compare.analysis import Analysis, analyse
from runner.compare.load import Runs
from runner.compare.text import show
from runner.config.arguments import Parser
from runner.errors import ConfigError
from runner.record.console import console
from runner.record.output import outlive_readers
from runner.record.untrusted import printable

_FORMULA, _NUMBER = r"^\s*[=+\-@]", r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_EXAMPLE = """
example:
  python -m runner -m optimizer=sgd,adam optimizer.learning_rate=0.001,0.01 seed=0,1,2
  python -m runner.compare multirun --by optimizer --target 0.5

Exit status: 0, or 1 after an error; with --strict, 3 if the comparison is confounded.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare run folders: print the findings and write them to a folder.

    Args:
      arguments: those of the command line, by default from sys.argv.

    Returns:
      the exit status, see `_EXAMPLE`.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        runs = (load_wandb if options.wandb else load).load(options.folders)
        question = options.by, options.metric, options.target, options.budget
        analysis, out = analyse(runs, *question), console()
        show(runs, analysis, out, options.keys)
        out.print()
        for line in _write(runs, analysis, options.out, options.report):
            out.print(line, soft_wrap=True)
        if options.wandb_report:
            where = _log_report(runs, analysis, options.out)
            out.print(f"W&B: {where}", soft_wrap=True)
    except ConfigError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    return 3 if options.strict and not analysis.control.controlled else 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner.compare",
        description="Compare runs: is the comparison controlled, and which are better? "
        "It only reads files of runs.",
        epilog=_EXAMPLE,
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
        "--by",
        metavar="KEY",
        help="what to compare: a group (optimizer) or a key (optimizer.b1); by default "
        "the group that varies",
    )
    add("--metric", help="by default the runs' objective, such as validation/loss")
    add(
        "--target",
        type=float,
        metavar="VALUE",
        help="also report how many steps, seconds and FLOPs it took to reach this",
    )
    add(
        "--budget",
        type=int,
        metavar="N",
        help="let each group count with its expected best of N settings that it tried",
    )
    add("--keys", action="store_true", help="list all keys that follow from the factor")
    add("--strict", action="store_true", help="exit with 3 if confounded")
    add("--wandb", action="store_true", help="read offline .wandb files instead")
    add(
        "--out",
        type=Path,
        default=Path("compare"),
        metavar="FOLDER",
        help="for runs.parquet, runs.csv, report.html and figures (./compare)",
    )
    page = parser.add_mutually_exclusive_group()
    page.add_argument(
        "--no-report",
        dest="report",
        action="store_false",
        help="write only the tables, without the page and figures",
    )
    page.add_argument(
        "--wandb-report",
        action="store_true",
        help="also log the page and the table of runs as a W&B artifact, in the "
        "project and mode of the first run (WANDB_MODE=online uploads it)",
    )
    return parser


def defused(table: pl.DataFrame) -> pl.DataFrame:
    """`table` without text that a spreadsheet would run as a formula."""
    text = pl.col(pl.String)
    runs = text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)
    safe = pl.when(runs).then(text.str.replace("^", "'")).otherwise(text)
    names = pl.DataFrame({"name": table.columns}).select(safe)["name"]
    return table.with_columns(safe).rename(dict(zip(table.columns, names, strict=True)))


def _write(runs: Runs, analysis: Analysis, out: Path, report: bool) -> list[str]:
    """Write the tables and, if asked, the page; returns lines that say so."""
    lines = [f"wrote {out / name}" for name in ("runs.parquet", "runs.csv")]
    try:
        out.mkdir(parents=True, exist_ok=True)
        runs.table.write_parquet(out / "runs.parquet")
        defused(runs.table).write_csv(out / "runs.csv")
        if report:
            from runner.compare.report import write_report

            write_report(runs, analysis, out)
            lines.append(f"wrote {out / 'report.html'}")
    except OSError as error:
        raise ConfigError(f"--out {out} must be writable: {error}") from error
    return lines


def _log_report(runs: Runs, analysis: Analysis, out: Path) -> str:
    from runner.compare.report import PAGE
    from runner.record.mirrors.wandb_report import log_report

    first = runs.table.row(0, named=True)
    found = {key: value for key, value in first.items() if key.startswith("wandb.")}
    settings = {key.removeprefix("wandb."): value for key, value in found.items()}
    title, table = f"comparison by {analysis.by}", defused(runs.table)
    return log_report(title, out / PAGE, table.columns, table.rows(), settings)


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
