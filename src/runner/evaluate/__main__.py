"""`python -m runner.evaluate`."""

import argparse
import json
import sys
from collections.abc import Sequence

from runner.record.console import console, print_table
from runner.record.files import to_json
from runner.record.output import outlive_readers
from runner.record.untrusted import one_line
from runner.saved import command
from runner.saved.saved_run import SavedRun

_EPILOG = f"""{command.DATA}
The numbers are those of training's own evaluation: on the same machine they equal
summary.json's test/* bit for bit, unless the run was packed with others or had a
schedule-free optimizer, which rounds in another way.

Exit status: 0, or 1 after an error.

examples:
  python -m runner.evaluate outputs/2026-01-31/12-00-00
  python -m runner.evaluate outputs/2026-01-31/12-00-00 --split train --json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the metrics of a saved run; returns the exit status, see `_EPILOG`.

    Args:
      arguments: those of the command line, by default from sys.argv.
    """
    made = command.parser(
        "evaluate",
        "Evaluate the model of a saved run, on its own data or on others.",
        _EPILOG,
    )
    command.add_data(made, "all but train")
    made.add_argument("--json", action="store_true", help="print JSON")
    return command.run(made, arguments, _evaluate)


def _evaluate(options: argparse.Namespace, saved: SavedRun) -> None:
    found = saved.evaluate(options.split, options.data)
    splits = list(dict.fromkeys(key.partition("/")[0] for key in found))
    sizes = {split: saved.examples(split, options.data) for split in splits}
    if options.json:
        told = {
            "run": saved.folder,
            "status": saved.summary.get("status"),
            "state": {"name": saved.state.name, "step": saved.state.step},
            "data": options.data,
            "examples": sizes,
            "metrics": found,
        }
        print(json.dumps(to_json(told), indent=2))
        return
    out = console()
    status = one_line(saved.summary.get("status"))
    out.print(f"{saved.folder}: {status}, {saved.state}", soft_wrap=True)
    names = list(dict.fromkeys(key.partition("/")[2] for key in found))
    cells = [
        [name, *(_text(found.get(f"{split}/{name}")) for split in splits)]
        for name in names
    ]
    cells.append(["examples", *(f"{size:,}" for size in sizes.values())])
    print_table(["", *splits], cells, out, right=slice(1, None))


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
