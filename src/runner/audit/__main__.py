"""`python -m runner.audit`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from runner import signals
from runner.audit import page, table
from runner.audit.audit import audit
from runner.audit.text import show
from runner.config.arguments import Parser
from runner.config.explain import MISTAKES, explain
from runner.errors import ConfigError, Preempted
from runner.record.console import console
from runner.record.output import outlive_readers
from runner.record.untrusted import printable

_EPILOG = """
The runs are trained here, packed as in a sweep, into FOLDER/runs; those that an earlier
audit has finished there are used again. docs/audit.md says how to write a table.

Exit status: 0 if all cells are reproduced, 3 if not, 1 after an error.

example:
  python -m runner.audit deepobs_quadratic_deep
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a published table, and print and write what came out.

    Args:
      arguments: of the command line, sys.argv's by default.

    Returns:
      the exit status: 0 if all cells are reproduced, 3 if not, 1 after a mistake.
    """
    options = _parser().parse_args(arguments)
    try:
        path = table.find(options.table)
        out = options.out or Path("audit", path.stem)
        found = audit(table.read(path), out, options.config_dir)
        try:
            page.write(found, out)
        except OSError as error:
            raise ConfigError(f"--out {out} must be writable: {error}") from error
    except MISTAKES as error:
        print(printable(f"error: {explain(error)}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signals.leave(130)
    except Preempted as stopped:
        signals.leave(stopped.code)
    shown = console()
    show(found, shown)
    for name in (page.PAGE, page.DATA):
        shown.print(f"wrote {out / name}", soft_wrap=True)
    return 0 if found.reproduced else 3


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner.audit",
        description="Run a published table: is each of its numbers reproduced, and "
        "which factor that its source leaves open explains those that aren't?",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    names = ", ".join(sorted(path.stem for path in table.SHIPPED.glob("*.yaml")))
    add("table", metavar="TABLE", help=f"a YAML file, or a shipped table: {names}")
    add("--out", type=Path, metavar="FOLDER", help="by default audit/<table>")
    add(
        "--config-dir",
        type=Path,
        metavar="FOLDER",
        help="your own YAML files, as for python -m runner",
    )
    return parser


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
