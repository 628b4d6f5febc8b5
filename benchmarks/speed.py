"""Sections of accelerator.py about time: loops, populations, jobs and precisions."""

import time
from collections.abc import Iterator
from functools import partial

from bench import Bench, Case, Row, Ways, framework_of
from by_hand import nnx_loop, nnx_scan, scan_loop
from configuration import SESSION
from packing import default, row_of
from step import runner_loop
from workloads import WORKLOADS

import sweep
from runner.core.choose import FORMS
from runner.core.measure import microseconds
from runner.core.measured import Measured
from runner.core.program import Program
from runner.core.run import Run

MEMBERS = (8, 32, 128)  # and 1, one after the other


def loop(bench: Bench) -> Iterator[Case]:
    def case(name: str) -> list[Row]:
        run, module = bench.built(name, framework_of(name))
        steps, loss = len(run.learning_rates), WORKLOADS[name].loss
        own = bench.folder / f"loop-{name}"
        ways: Ways = {"runner": runner_loop(run, own, "disabled")}
        if name == "mlp" and not bench.small:
            ways["lax.scan by hand"] = scan_loop(run)
        elif bench.scans(name):
            ways["lax.scan by hand"] = nnx_scan(run, module(), loss)
        ways["nnx.jit, a call a step"] = nnx_loop(run, module(), loss, min(steps, 1000))
        return bench.rows("loop", name, ways, dict.fromkeys(ways, steps))

    for name in ("mlp", "cnn", "transformer"):
        yield name, partial(case, name)


def packing(bench: Bench) -> Iterator[Case]:
    rounds = 1 if bench.small else bench.repeats
    found: dict[str, tuple[Run, Measured]] = {}

    def way(run: Run, members: int) -> tuple[Program, Run]:
        size = members if members > 1 else None
        return SESSION.program(run.spec, run.values, run.timetable, size), run

    def case(name: str, members: int) -> list[Row]:
        forms = FORMS if WORKLOADS[name].convolves else ("native",)
        runs = {
            form: bench.built(name, framework_of(name), f"train.convolution={form}")[0]
            for form in forms
        }
        ways = {(form, 1): way(run, 1) for form, run in runs.items()}
        alone = sum(
            micros * ways[one][0].cut.steps
            for one, micros in microseconds(ways, 1).items()
        )
        wait = (rounds + 2) * members * alone / 1e6
        if time.monotonic() + wait > bench.until:
            raise TimeoutError(f"it would take about {wait:.0f} s")
        ways |= {(form, members): way(run, members) for form, run in runs.items()}
        times = microseconds(ways, rounds)
        native = runs["native"]
        kept = found.setdefault(name, (native, row_of(native, name)))[1].microseconds
        for (form, size), micros in times.items():
            kept.setdefault(form, {})[size] = micros
        rows = [
            Row("packing", f"{members} x {name}", f"{form}, {size} side by side",
                micros, micros / min(times.values()), rounds)
            for (form, size), micros in times.items()
        ]  # fmt: skip
        own = {form: {1: times[form, 1], members: times[form, members]}
               for form in forms}  # fmt: skip
        judged = row_of(native, name)._replace(microseconds=own)
        taken, ratio = default(native, judged, members)
        return [*rows, Row("packing", f"{members} x {name}", f"default: {taken}",
                           ratio=ratio)]  # fmt: skip

    def table() -> list[Row]:
        return [
            Row("packing", "measured.py", name, said=str(row))
            for name, (_, row) in found.items()
        ]

    for members in (2,) if bench.small else MEMBERS:
        for name in ("mlp", "2c2d", "transformer"):
            yield f"{members} x {name}", partial(case, name, members)
    yield "measured.py", table


def jobs(bench: Bench) -> Iterator[Case]:
    number = 10 if bench.small else 100

    def case() -> list[Row]:
        sweep.prepare(bench.folder)
        ways: Ways = {
            "packed": partial(sweep.in_new_folder, sweep.packed, number, bench.folder),
            "by hand": partial(sweep.in_new_folder, sweep.hand, number, bench.folder),
        }
        count = dict.fromkeys(ways, 1)
        rows = bench.rows("jobs", f"{number} jobs", ways, count, warm=False)
        return [
            row._replace(micros=None, said=f"{(row.micros or 0) / 1e6:.1f} s in all")
            for row in rows
        ]

    yield f"{number} jobs", case


def precision(bench: Bench) -> Iterator[Case]:
    options = {
        "default": (),
        "high": ("precision.matmul=high",),
        "highest": ("precision.matmul=highest",),
        "bfloat16": ("precision=bfloat16",),
    }

    def case(name: str) -> list[Row]:
        ways: Ways = {}
        for option, more in options.items():
            run, _ = bench.built(name, framework_of(name), *more, part=2)
            folder = bench.folder / f"precision-{name}-{option}"
            ways[option] = runner_loop(run, folder, "disabled")
            count = dict.fromkeys(options, len(run.learning_rates))
        return bench.rows("precision", name, ways, count)

    for name in ("transformer", "2c2d", "mlp"):
        yield name, partial(case, name)
