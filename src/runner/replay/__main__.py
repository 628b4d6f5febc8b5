"""`python -m runner.replay`."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.config import conf
from runner.config.arguments import Parser
from runner.config.explain import MISTAKES, explain
from runner.record.output import outlive_readers
from runner.record.untrusted import printable
from runner.replay.again import Limits, replay
from runner.replay.rows import Differs

_EPILOG = """
RUN is trained again with its recorded configuration; it takes no Hydra overrides. The
recorded overrides are also composed with today's conf/, and each difference is named.
The functions in RUN's `_target_`s are imported and called, if conf/ or --config-dir
names them too, or with --trust.

Every value of every logged row is compared, except `time/*`: bit for bit if jax,
jaxlib, flax, optax, numpy, JAX's environment, the backend, the kind and number of
devices, the machine's architecture and its number of CPUs are as recorded, otherwise
within --tolerance. The replay stops at the first difference.

Without --out the replay writes only compiled programs, into the run's
compilation_cache, and data that the run would have prepared too. It sends nothing to
W&B.

Exit status: 0 if all rows are equal, 3 if not, 1 if RUN can't be replayed.

example:
  python -m runner.replay outputs/2026-01-31/12-00-00
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a run and print whether it is the same.

    Args:
      arguments: of the command line, sys.argv's by default.

    Returns:
      the exit status: 0 if equal, 3 if different, 1 after a mistake, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    conf.register()
    limits = Limits(
        options.tolerance,
        options.allow_rounding,
        options.allow_contradiction,
        options.trust,
        options.config_dir,
    )
    try:
        conf.search_path(options.config_dir)  # refuses what can't be used
        print(replay(options.run, limits, options.out), flush=True)
    except Differs as difference:
        print(printable(f"Not reproduced: {options.run}: {difference}."), flush=True)
        return 3
    except MISTAKES as error:
        print(printable(f"error: {explain(error)}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner.replay",
        description="Train a recorded run again, and check that all numbers are the "
        "same.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        metavar="RUN",
        help="a run folder, or W&B's offline run-*.wandb file or folder of one",
    )
    add(
        "--tolerance",
        type=_tolerance,
        default=1e-5,
        metavar="X",
        help="the largest relative difference of a value if the same bits can't be "
        "expected (default: 1e-5)",
    )
    add(
        "--allow-rounding",
        action="store_true",
        help="compare within --tolerance even if the same bits could be expected, for "
        "example on another kind of CPU, which isn't recorded",
    )
    add(
        "--allow-contradiction",
        action="store_true",
        help="replay a config.json that contradicts itself, for example with different "
        "learning rates in the schedule and the optimizer",
    )
    add(
        "--config-dir",
        type=Path,
        metavar="FOLDER",
        help="your own YAML files, as for python -m runner: by default those that the "
        "run had, but only a folder given here says what may be imported",
    )
    add(
        "--trust",
        action="store_true",
        help="import and call whatever function RUN names: only for a RUN of your own",
    )
    add("--out", type=Path, metavar="FOLDER", help="record the replay here, as a run")
    return parser


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and finite")
    return value


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
