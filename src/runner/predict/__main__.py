"""`python -m runner.predict`."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.errors import ConfigError
from runner.record.files import write_bytes
from runner.record.output import outlive_readers
from runner.saved import command
from runner.saved.saved_run import SavedRun

_EPILOG = f"""{command.DATA}
The table has a row for each example, in the order of the data: index, output (an
array, unless it is one number), predicted (the class with the largest output, if there
are classes), the columns that the model doesn't get, such as label, and loss. In a
.csv each number of output has a column: output_0, output_1, ...

Exit status: 0, or 1 after an error, which leaves no file.

example:
  python -m runner.predict outputs/2026-01-31/12-00-00 --out predictions.parquet
"""
_FORMATS = (".parquet", ".csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the predictions of a saved run; returns the exit status, see `_EPILOG`.

    Args:
      arguments: those of the command line, by default from sys.argv.
    """
    made = command.parser(
        "predict",
        "Write what the model of a saved run gives for each example of a split.",
        _EPILOG,
    )
    command.add_data(made, "test, or validation without one")
    add = made.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .parquet or .csv file, which is replaced",
    )
    add("--no-outputs", action="store_true", help="leave the column output out")
    return command.run(made, arguments, _predict)


def _predict(options: argparse.Namespace, saved: SavedRun) -> None:
    from runner.saved.predictions import flat

    out: Path = options.out
    if out.suffix not in _FORMATS:
        raise ConfigError(f"--out {out} must end in {' or '.join(_FORMATS)}")
    table = saved.predictions(options.split, options.data, not options.no_outputs)
    data = io.BytesIO()
    if out.suffix == ".parquet":
        table.write_parquet(data)
    else:
        flat(table).write_csv(data)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, data.getvalue())
    except OSError as error:
        raise ConfigError(f"--out {out} can't be written: {error.strerror}") from error
    print(f"{out}: {len(table):,} rows of {saved.folder}, {saved.state}")


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
