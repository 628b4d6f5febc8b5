"""Microseconds of a member's step, each way that the runner may train it.

    python benchmarks/packing.py --rounds 5

Ways are the form of convolutions, if there are some, and how many members train side by
side (1: one after another). They take turns, so that other load on the machine affects
all of them, and the fastest of the rounds counts. Only training is timed, with nothing
written. Prints how the default choice compares with the best way for up to so many
members, and the rows of src/runner/core/measured.py, which it follows.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
from configuration import composed
from step import IMAGES
from timing import load

from runner.config import conf
from runner.core import choose
from runner.core.convolution import has_convolution
from runner.core.measure import microseconds
from runner.core.measured import Measured
from runner.core.run import Run
from runner.core.shapes import step_jaxpr
from runner.job.build import build
from runner.job.session import Session

SIZES = (1, 4, 8, 32)
MEMBERS = (1, 8, 32)  # for which the default choice is judged
EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))
TEXT = ["data=counting", "model=transformer", "task.mask=counts"]
MODELS = {
    "mlp [16]": ["model.hidden_sizes=[16]"],
    "mlp [128, 64]": ["model.hidden_sizes=[128,64]"],
    "mlp [512, 256]": ["model.hidden_sizes=[512,256]"],
    "transformer 32": [*TEXT, "model.width=32"],
    "transformer 128": [*TEXT, "model.width=128"],
    "cnn 8x8": ["model=cnn", "data=digits"],
    "cnn 28x28": [*IMAGES, "model=cnn"],
    "2c2d": [*IMAGES, "model=2c2d", "data.batch_size=128"],
    "cnn 28x28 [64, 128, 256]": [*IMAGES, "model=cnn", "model.channels=[64,128,256]"],
}


def make_run(overrides: list[str], form: str, session: Session) -> Run:
    fixed = [
        f"train.convolution={form}", "verify=false", "mesh=single",
        *conf.search_path(EXAMPLES / "my_lab" / "conf"),
    ]  # fmt: skip
    if not any(override.startswith("data.batch_size=") for override in overrides):
        fixed.append("data.batch_size=64")
    return build(composed(*overrides, *fixed), session).run


def measured(
    name: str,
    made: Callable[[str], Run],
    sizes: Sequence[int],
    rounds: int,
    session: Session,
) -> tuple[Run, Measured]:
    """The run with XLA's own convolutions, and the row for runs like it here."""
    native = made("native")
    jaxpr = step_jaxpr(native.spec, native.values)
    forms = choose.FORMS if has_convolution(jaxpr) else ("native",)
    ways = {}
    for form in forms:
        run = made(form)
        for size in sizes:
            members = size if size > 1 else None
            made_ready = session.program(run.spec, run.values, run.timetable, members)
            ways[form, size] = made_ready, run
    times = microseconds(ways, rounds)
    found = {form: {n: times[form, n] for n in sizes} for form in forms}
    return native, row_of(native, name)._replace(microseconds=found)


def row_of(native: Run, name: str) -> Measured:
    """A row for runs like `native` on this device, without its times."""
    device, jaxpr = jax.devices()[0], step_jaxpr(native.spec, native.values)
    flops = float(f"{choose.flops(jaxpr):.3g}")
    return Measured(device.platform, device.device_kind, name, flops, {})


def default(run: Run, row: Measured, most: int) -> tuple[str, float]:
    """The default choice for up to `most` such runs, and its time over the best."""
    jaxpr, forms = step_jaxpr(run.spec, run.values), tuple(row.microseconds)
    taken = choose.by_table(jaxpr, row.platform, row.kind, forms, most)
    best = min(min(choose.sizes(of, most).values()) for of in row.microseconds.values())
    # The table may have other sizes than were measured here.
    size = taken.members
    ratio = choose.sizes(row.microseconds[taken.convolution], size)[size] / best
    form = f"{taken.convolution}, " if row.convolves else ""
    return f"{form}{size} side by side", ratio


def report(run: Run, row: Measured) -> None:
    sizes = next(iter(row.microseconds.values()))
    print(f"\n{row.program:<26}" + "".join(f"{size:>9}" for size in sizes))
    for form, times in row.microseconds.items():
        name = form if row.convolves else ""
        print(f"{name:<26}" + "".join(f"{time:9.0f}" for time in times.values()))
    for most in (most for most in MEMBERS if most <= max(sizes)):
        taken, ratio = default(run, row, most)
        print(f"{most:>2} members by default {taken}: {ratio:.2f} of the best")
    print(f"    {row},", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--most", type=int, default=max(SIZES), help="members")
    args = parser.parse_args()
    print("command  python", *sys.argv)
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs, {jax.devices()[0]}")
    print(load())
    sizes = [size for size in SIZES if size <= args.most]
    for name in args.models:
        session = Session(most=64)
        made = partial(make_run, MODELS[name], session=session)
        report(*measured(name, made, sizes, args.rounds, session))
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
