"""`python -m runner.replay`."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.config import conf
from runner.config.explain import MISTAKES, explain
from runner.replay.again import Limits, replay
from runner.replay.rows import Differs

_EPILOG = """
RUN's configuration is run again as it was recorded; Hydra's command line has no part in
it. It is also composed anew from the recorded overrides with the conf/ of today, and
what differs is named. What RUN's `_target_`s name is imported and called.

Every value of every logged row is compared, `time/*` aside: bit for bit where jax,
jaxlib, flax, optax, numpy, the backend, the kind and number of devices, the machine's
architecture and its number of CPUs are those that were recorded, else within
--tolerance. The first difference ends the replay.

Without --out nothing is written but compiled programs, into the run's
compilation_cache, and data that the run would have prepared too. W&B gets nothing.

Exit status: 0 if all rows are equal, 3 if not, 1 if RUN can't be replayed.

example:
  python -m runner.replay outputs/2026-01-31/12-00-00
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a run and tell whether it is the same.

    Args:
      arguments: of the command line, sys.argv's by default.

    Returns:
      the exit status: 0 equal, 3 different, 1 after a mistake, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    conf.register()
    limits = Limits(
        options.tolerance, options.allow_rounding, options.allow_contradiction
    )
    try:
        print(replay(options.run, limits, options.out), flush=True)
    except Differs as difference:
        print(f"Not reproduced: {options.run}: {difference}.", flush=True)
        return 3
    except MISTAKES as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner.replay",
        description="Run a recorded run again, and check that it comes out the same.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        help="the largest relative difference of a value where the same bits can't be "
        "expected (1e-5)",
    )
    add(
        "--allow-rounding",
        action="store_true",
        help="compare within --tolerance even where the same bits can be expected, as "
        "between two kinds of CPU, which aren't recorded",
    )
    add(
        "--allow-contradiction",
        action="store_true",
        help="replay a config.json that contradicts itself, such as a schedule whose "
        "learning rate isn't the optimizer's",
    )
    add("--out", type=Path, metavar="FOLDER", help="record the replay there, as a run")
    return parser


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0 and finite")
    return value


if __name__ == "__main__":
    sys.exit(main())
