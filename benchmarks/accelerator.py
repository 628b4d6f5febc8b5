"""What this machine's accelerator makes of the runner: ratios, in a given time.

    python benchmarks/accelerator.py --minutes 8

The most important comes first; what doesn't fit in the time is listed. Ways that are
compared take turns, so each ratio is from one run: the median of the rounds' ratios.
Compilation is left out, except for the 100 jobs, which are whole commands with a cold
cache. All run with `deterministic=true`, as runs do by default, and without W&B.

loop        training with the runner, in nnx (the MLP: pure JAX), against a `lax.scan`
            by hand and the usual loop of flax that dispatches each step
packing     members side by side and one after the other, convolutions as XLA's and as
            patches, against the fastest way, and what the default chooses; with the
            rows for src/runner/core/measured.py
bits        a replay, a resumed run and a repeated sweep: the same bits?
determinism steps with and without XLA's deterministic operations; the same bits?
jobs        a sweep of 100 jobs against a vmapped program by hand
precision   the matmul precisions and bfloat16

Without an accelerator it runs too; --small shows within minutes that all of it works.
"""

import argparse
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# For the commands that are started from here, and use the same device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from bench import Bench, Case, Row
from same_bits import bits, deterministic
from speed import jobs, loop, packing, precision
from timing import load

from runner.job import determinism
from runner.record.code import Code
from runner.record.console import console, print_table
from runner.record.files import write_json
from runner.record.provenance import PACKAGES

SECTIONS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "loop": loop,
    "packing": packing,
    "bits": bits,
    "determinism": deterministic,
    "jobs": jobs,
    "precision": precision,
}


class Report(NamedTuple):
    """What is written: see `Row`. `left_out` didn't fit in the time."""

    rows: list[Row]
    failures: dict[str, str]
    left_out: list[str]

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        write_json(path, facts | {
            "rows": [row._asdict() for row in self.rows],
            "failures": self.failures,
            "left_out": self.left_out,
        })  # fmt: skip

    def show(self) -> None:
        def text(x: float | None, form: str) -> str:
            return "" if x is None else format(x, form)

        cells = [
            (row.section, row.case, row.way, text(row.micros, ".1f"),
             text(row.ratio, ".2f"), str(row.rounds or ""), row.said)
            for row in self.rows
        ]  # fmt: skip
        header = ("section", "case", "way", "us/step", "ratio", "rounds", "")
        print_table(header, cells, console(), right=slice(3, 6))
        print("ratio: the time of a way over that of its case's first (packing: best)")
        if self.left_out:
            print("no time was left for:", ", ".join(self.left_out))
        for name, why in self.failures.items():
            print(f"failed: {name}: {why}")


def run_all(
    bench: Bench, only: Sequence[str], save: Callable[[Report], None]
) -> Report:
    """Measure the sections in `only`, and `save` what there is after each case."""
    report = Report([], {}, [])
    for section in only:
        for name, case in SECTIONS[section](bench):
            full = f"{section}: {name}"
            if time.monotonic() > bench.until:
                report.left_out.append(full)
                continue
            print(f"{time.strftime('%X')} {full}", file=sys.stderr, flush=True)
            try:
                report.rows.extend(case())
            except TimeoutError as error:
                report.left_out.append(f"{full} ({error})")
            except (Exception, SystemExit) as error:  # the others are still worth it
                traceback.print_exc()
                last = str(error).strip().splitlines()[-1:]
                report.failures[full] = f"{type(error).__name__}: {' '.join(last)}"
            save(report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--small", action="store_true", help="to see that all works")
    parser.add_argument("--repeats", type=int, default=5, help="the most; default 5")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"))
    args = parser.parse_args()
    determinism.set_up(True)
    code = Code(Path.cwd(), PACKAGES).facts()
    facts = {
        "command": ["python", *sys.argv],
        "started": time.strftime("%Y-%m-%d %X %Z"),
        "devices": [device.device_kind for device in jax.devices()],
        "backend": jax.default_backend(),
        "cpus": os.cpu_count(),
        "xla_flags": os.environ["XLA_FLAGS"],
        "load": os.getloadavg(),
        **{k: code[k] for k in ("python", "packages")},
    }
    print("command ", *facts["command"])
    print(f"device   {', '.join(facts['devices'])}; jax {facts['packages']['jax']}")
    print(load())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.small, args.repeats, args.minutes, Path(folder))
        report = run_all(bench, args.only, lambda r: r.write(args.out, facts))
    report.show()
    print(load(), f"\nwrote {args.out}", sep="\n" if report.failures else "")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
