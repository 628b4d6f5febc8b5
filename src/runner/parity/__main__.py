"""`python -m runner.parity`: train, and take each step in every framework.

All take it from the state that the first of them has reached, with the same batch. So
any difference comes from that step in that framework, in practice rounding or nothing
at all, and none adds up.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from runner.config import conf
from runner.config.arguments import Parser
from runner.config.explain import explain
from runner.errors import ConfigError
from runner.parity.compare import Compared, compare
from runner.parity.steps import Difference
from runner.record.console import console, print_table
from runner.record.output import outlive_readers

MEASURES = ("loss", "grad", "params")


def main(argv: Sequence[str] | None = None) -> None:
    """Exit with status 0 if all frameworks agree, 1 if not or after an error."""
    arguments = _parser().parse_intermixed_args(argv)
    conf.register()
    try:
        with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
            agree = _compare_all(arguments)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explain(error)}")
    sys.exit(0 if agree else 1)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m runner.parity",
        description="Train in pure JAX, take each of its steps in flax linen and flax "
        "nnx too, from the same state with the same batch, and print how far they "
        "differ. Of a model without initial values of its own, one form gets those of "
        "the other, and layer and cause of a difference are named. Exit status: 0, or "
        "1 if they differ by more than the tolerance.",
        epilog="example: python -m runner.parity model=cnn optimizer=adamw",
    )
    parser.add_argument("overrides", nargs="*", help="as for python -m runner")
    parser.add_argument(
        "--config-dir", type=Path, help="a folder of your own YAML files"
    )
    parser.add_argument("--steps", type=int, default=20, help="default 20")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest relative difference of loss, gradient norm and parameters in "
        "any step; by default what rounding explains: 1e-5 in float32 on CPU, 0.002 "
        "in TF32, as GPUs have it, and 0.016 in bfloat16",
    )
    parser.add_argument(
        "--all", action="store_true", help="every optimizer with every schedule"
    )
    return parser


def _compare_all(arguments: argparse.Namespace) -> bool:
    steps, given = arguments.steps, arguments.tolerance
    own = arguments.overrides + conf.search_path(arguments.config_dir)
    if not arguments.all:
        one = compare(own, "", steps, given, {})
        if one.differences:
            _print_table(
                f"largest relative difference from {one.first}",
                "step",
                [(str(k + 1), one.differences, slice(k, k + 1)) for k in range(steps)],
            )
        return _report("", one)
    agree = True
    print("Largest relative difference between frameworks in any step")
    for optimizer in _options("optimizer"):
        overrides = [*own, f"optimizer={optimizer}"]
        rows: dict[str, Compared] = {}
        kept = {}
        for schedule in _options("schedule"):
            try:
                rows[schedule] = compare(overrides, schedule, steps, given, kept)
            except ConfigError as error:  # this pair can't be combined
                print(f"optimizer={optimizer} schedule={schedule}: {error}")
        table = [(name, row.differences, slice(None)) for name, row in rows.items()]
        _print_table(f"optimizer={optimizer}", "schedule", table)
        for schedule, row in rows.items():
            name = f"optimizer={optimizer} schedule={schedule}: "
            agree &= _report(name, row)
    print("All agree." if agree else "Not all agree.")
    return agree


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf.conf_dir() / group).glob("*.yaml"))


def _print_table(
    title: str, first: str, rows: Sequence[tuple[str, dict[str, Difference], slice]]
) -> None:
    """Print the largest differences in a slice of the steps, one row for each."""
    frameworks = rows[0][1] if rows else ()
    header = [first, *(f"{f} {what}" for f in frameworks for what in MEASURES)]
    cells = [
        [name, *(f"{v[steps].max():.1e}" for d in found.values() for v in d[:3])]
        for name, found, steps in rows
    ]
    print_table(header, cells, console(), title=title, right=slice(1, None))


def _report(name: str, compared: Compared) -> bool:
    """Print where each framework exceeds the tolerance; True if none does.

    Args:
      name: what was compared; empty if it is all that there is.
      compared: the differences.
    """
    if compared.messages is not None:
        return _report_port(name, compared, compared.messages)
    first, allowed = compared.first, compared.tolerance
    agree = True
    for framework, d in compared.differences.items():
        past = np.flatnonzero(d.largest > allowed)
        if past.size:
            k = past[0]
            print(
                f"{name}{framework} differs from {first} by {d.largest[k]:.1e} "
                f"(tolerance {allowed:.1e}) at step {k + 1}, most in {d.worst[k]}; it "
                f"does in {past.size} of {len(d.loss)} steps"
            )
        if d.initial > allowed:
            print(
                f"{name}{framework} and {first} start from different values, though "
                "the model has an `init`"
            )
        agrees = not past.size and d.initial <= allowed
        if agrees and not name:
            largest = d.largest.max()
            equal = "equal bit for bit" if not largest else f"within {largest:.1e}"
            print(f"{framework} and {first}: {equal} in each of {len(d.loss)} steps")
        agree &= agrees
    return agree


def _report_port(name: str, compared: Compared, messages: dict[str, list[str]]) -> bool:
    """Print what differs between forms whose values were copied; True if nothing."""
    for framework, found in messages.items():
        for message in found:
            print(f"{name}{message}")
        if not found and not name:
            d = compared.differences[framework]
            print(
                f"{framework} and {compared.first}: within {d.largest.max():.1e} in "
                f"each of {len(d.loss)} steps, with the values of {compared.first} "
                "(the model has no `init`)"
            )
    return not any(messages.values())


if __name__ == "__main__":
    outlive_readers()
    main()
