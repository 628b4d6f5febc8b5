"""`python -m runner show`: one run, as far as its folder tells it."""

import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.compare.load import load
from runner.config.arguments import Parser
from runner.errors import ConfigError
from runner.record.console import console, print_table
from runner.record.output import outlive_readers
from runner.record.terminal import number
from runner.record.untrusted import one_line, printable, read_foreign

if TYPE_CHECKING:
    from rich.tree import Tree

_EPILOG = "Exit status: 0, or 1 after an error."
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 40  # characters of a curve


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a run; returns the exit status, see `_EPILOG`.

    Args:
      arguments: those of the command line, by default from sys.argv.
    """
    options = _parser().parse_args(arguments)
    try:
        show(options.run)
    except ConfigError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    return 0


def show(folder: Path) -> None:
    """Print how a run ended, its configuration and its curves.

    Raises:
      ConfigError: `folder` isn't that of one run, or it is damaged.
    """
    runs = load([folder])
    if len(runs.table) > 1:
        raise ConfigError(
            f"{folder} holds {len(runs.table)} runs: name one of them, such as "
            f"{runs.table['folder'][0]}, or list them: python -m runner list {folder}"
        )
    row = runs.table.row(0, named=True)
    out = console()
    ended = f"{row['status']}: {row['stopped']}" if row["stopped"] else row["status"]
    out.print(one_line(f"{row['folder']}: {ended}"), style="bold", soft_wrap=True)
    if row["error"]:
        out.print(one_line(row["error"]), soft_wrap=True)
    for problem in runs.problems:
        print(problem, file=sys.stderr)
    path = Path(row["folder"]) / "config.json"
    try:
        config = read_foreign(path)
    except FileNotFoundError:  # it failed before it had one
        config = {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    hydra = config.pop("hydra", None)
    for name in ("optimizer_probe", "format"):  # which are results
        config.pop(name, None)
    overrides = hydra.get("overrides") if isinstance(hydra, dict) else None
    if isinstance(overrides, list) and overrides:
        out.print(one_line(f"overrides: {' '.join(map(str, overrides))}"))
    out.print(_tree(config))
    lines = []
    for name in runs.curves.columns[2:]:
        values = runs.curves[name].drop_nulls().to_list()
        if values:
            first, last = (number(name, value) for value in (values[0], values[-1]))
            lines.append((name, first, curve(values), last))
    print_table(("metric", "first", "", "last"), lines, out, title="curves")
    finals = [
        (metric, number(metric, value))
        for start, _, metric in (name.partition("final.") for name in row)
        if not start and (value := row[f"final.{metric}"]) is not None
    ]
    print_table(("metric", "final"), finals, out, title="results")


def curve(values: Sequence[float]) -> str:
    """A line of blocks, of at most _WIDTH, each as high as the mean of its values.

    What isn't finite is a cross.
    """
    count = min(len(values), _WIDTH)
    edges = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = high - low or 1.0

    def block(mean: float) -> str:
        if not math.isfinite(mean):
            return "×"  # noqa: RUF001
        return _LEVELS[round((mean - low) / span * (len(_LEVELS) - 1))]

    return "".join(map(block, means))


def _tree(config: Mapping[str, Any]) -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    def grow(tree: "Tree", node: Mapping[str, Any]) -> "Tree":
        for key, value in node.items():
            if isinstance(value, Mapping) and value:
                grow(tree.add(Text(one_line(key), "bold")), value)
            else:
                tree.add(Text(one_line(f"{key}: {_plain(value)}")))
        return tree

    return grow(Tree("configuration", hide_root=True), config)


def _plain(value: Any) -> str:
    """`value` as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner show",
        description="Show one run: its status, configuration, curves and results. It "
        "only reads files of the run.",
        epilog=_EPILOG,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    return parser


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
