"""`python -m runner.export`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.record.output import outlive_readers
from runner.saved import command
from runner.saved.saved_run import SavedRun

_EPILOG = """
FOLDER gets state.safetensors, which init_from=FOLDER reads, config.json, metrics.json,
provenance.json and README.md, a model card. No secret is in them.

Exit status: 0, or 1 after an error, which leaves no folder.

example:
  python -m runner.export outputs/2026-01-31/12-00-00 --out my_model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the model of a saved run; returns the exit status, see `_EPILOG`.

    Args:
      arguments: those of the command line, by default from sys.argv.
    """
    made = command.parser(
        "export",
        "Write the model of a saved run into a folder that can be given away.",
        _EPILOG,
    )
    add = made.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    return command.run(made, arguments, _export)


def _export(options: argparse.Namespace, saved: SavedRun) -> None:
    folder = saved.export(options.out)
    print(f"{folder}: {saved.folder}, {saved.state}; init_from={folder} reads it")


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
