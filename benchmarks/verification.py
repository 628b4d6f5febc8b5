"""The cost of verification: of a program, of a further run of it, and of witnesses.

    python benchmarks/verification.py --repeats 3

Each with and without verify, in turn. A program: whole commands with a cold cache, to
their first step (startup.py). A further run: building another learning rate of a
program that is there. Witnesses: training of a minute, in one process.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from configuration import SESSION, composed
from startup import runner
from timing import in_turn, load, median_ratio

from runner.core.run import Host
from runner.job.build import build
from runner.job.session import Session
from runner.job.witness import witness_of


def start(*overrides: str) -> float:
    with tempfile.TemporaryDirectory() as cache:
        return runner(Path(cache), *overrides)


def another(verify: str) -> Callable[[], float]:
    rates = (1e-3 / (1 + i / 100) for i in itertools.count(1))

    def further() -> float:
        cfg = composed(verify, f"optimizer.learning_rate={next(rates)}")
        started = time.perf_counter()
        build(cfg, SESSION)
        return time.perf_counter() - started

    return further


def training(steps: int) -> Callable[[str], Callable[[], float]]:
    length = "train.epochs=null", f"train.steps={steps}"
    every = "train.log_every_steps=100", f"train.eval_every_steps={steps // 10}"

    def way(verify: str) -> Callable[[], float]:
        def train() -> float:
            session = Session()  # so that programs of witnesses are compiled, too
            run = build(composed(verify, *length, *every), session).run
            started = time.perf_counter()
            program = session.program(run.spec, run.values, run.timetable)
            witness = witness_of([run], program, 0, session)
            session.train(run, Host(lambda index, row: None), None, witness)
            return time.perf_counter() - started

        return train

    return way


def compare(
    title: str, way: Callable[[str], Callable[[], float]], repeats: int, warm: bool
) -> None:
    ways = {name: way(f"verify={name}") for name in ("true", "false")}
    seconds = in_turn(ways, repeats, warm=warm)
    pairs = zip(*seconds.values(), strict=True)
    more = statistics.median(verified - plain for verified, plain in pairs)
    verified, plain = map(statistics.median, seconds.values())
    ratio = median_ratio(*seconds.values())
    print(
        f"{title:<16}{verified:10.4f}{plain:10.4f}{more:10.4f}{ratio:9.3f}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600_000, help="of a minute")
    args = parser.parse_args()
    print("command  python", *sys.argv, f"\n{load()}")
    print(f"\n{'seconds':<16}{'verified':>10}{'without':>10}{'more':>10}{'ratio':>9}")
    compare("a program", lambda verify: partial(start, verify), 3 * args.repeats, False)
    compare("a further run", another, 10 * args.repeats, True)
    compare("witnesses", training(args.steps), args.repeats, False)
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
