"""What the commands on a saved run have in common."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.config import conf
from runner.config.arguments import Parser
from runner.config.explain import reason
from runner.saved.saved_run import SavedRun, load_run

DATA = """
DATA are overrides for other data than the run's own, as for python -m runner:
data=NAME and data.KEY=VALUE. They need columns of the same shapes.
"""
_STATES = """
By default it is the state that the run ended with: the best one if the run had
checkpoint.best=true, else the last. Of a run that was interrupted it is the newest
checkpoint. Functions that RUN names are imported and called if conf/ or --config-dir
names them too, or with --trust.
"""


def parser(name: str, description: str, epilog: str) -> Parser:
    """The parser of a command on a saved run.

    Args:
      name: of the command.
      epilog: what comes after the options, before what all these commands say.
    """
    made = Parser(
        prog=f"python -m runner.{name}",
        description=description,
        epilog=f"{_STATES}{epilog}",
    )
    add = made.add_argument
    add("run", type=Path, metavar="RUN", help="a run folder, or that of a sweep's job")
    add(
        "--state",
        metavar="best|last|STEP",
        help="which of the states that the run has kept",
    )
    add(
        "--config-dir",
        type=Path,
        metavar="FOLDER",
        help="your own YAML files, as for python -m runner",
    )
    add(
        "--trust",
        action="store_true",
        help="import and call whatever function RUN names: only for a RUN of your own",
    )
    return made


def add_data(made: Parser, split: str) -> None:
    """Let a command take a split, and overrides of the data.

    Args:
      split: what --split is by default, in words.
    """
    made.add_argument(
        "data",
        nargs="*",
        default=[],  # without which argparse says that it is required
        metavar="DATA",
        help="overrides, such as data.batch_size=32",
    )
    made.add_argument(
        "--split",
        metavar="NAME",
        help=f"train, validation, test or another of the data (default: {split})",
    )


def run(
    made: Parser,
    arguments: Sequence[str] | None,
    body: Callable[[argparse.Namespace, SavedRun], None],
) -> int:
    """Parse, load the run, and call `body`.

    Returns:
      the exit status: 1 after a mistake, which is one message, or a bug; 130 after
      Ctrl-C.
    """
    options = made.parse_intermixed_args(arguments)
    conf.register()
    try:
        conf.search_path(options.config_dir)  # refuses what can't be used
        saved = load_run(
            options.run,
            state=options.state,
            trust=options.trust,
            config_dir=options.config_dir,
        )
        body(options, saved)
    except Exception as error:
        full = os.environ.get("HYDRA_FULL_ERROR") == "1"
        print(f"error:{reason(error, full)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
