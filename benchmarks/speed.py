"""Sections of accelerator.py about time: loops, populations, jobs and precisions."""

import sys
import time
from collections.abc import Iterator
from functools import partial

from bench import Bench, Case, Row, Ways, framework_of
from by_hand import nnx_loop, nnx_scan, scan_loop
from packing import measured
from step import SESSION, runner_loop
from workloads import WORKLOADS

import sweep
from runner.core.run import Host, Run
from runner.core.train import train

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
    nowhere = Host(lambda index, row: None)
    found: dict[str, tuple[Run, dict[int, float]]] = {}

    def trained(run: Run, members: int | None) -> float:
        program = SESSION.program(run.spec, run.values, run.timetable, members)
        started = time.perf_counter()
        for _, error in train(program, [run] * (members or 1), nowhere):
            if error:
                raise error
        return time.perf_counter() - started

    def case(name: str, form: str, members: int) -> list[Row]:
        def run_of(form: str) -> Run:
            more = [f"train.convolution={form}"] if form else []
            return bench.built(name, framework_of(name), *more, part=10)[0]

        run, title = run_of(form), f"{name}, {form}" if form else name
        steps = len(run.learning_rates)
        trained(run, None)  # compiles
        wait = members * trained(run, None)
        if time.monotonic() + wait > bench.until:
            raise TimeoutError(f"it would take about {wait:.0f} s")
        together, alone = "side by side", "one after the other"
        ways: Ways = {
            together: partial(trained, run, members),
            alone: partial(trained, run, None),
        }
        if form == "patches":
            ways[f"{alone}, native"] = partial(trained, run_of("native"), None)
        count = dict.fromkeys(ways, steps) | {together: steps * members}
        rows = bench.rows("packing", f"{members} x {title}", ways, count)
        _, times = found.setdefault(title, (run, {}))
        times |= {members: rows[0].micros or 0, 1: rows[1].micros or 0}
        return rows

    def table() -> list[Row]:
        return [
            Row("packing", "measured.py", title, said=str(measured(run, times)))
            for title, (run, times) in found.items()
        ]

    for members in (2,) if bench.small else MEMBERS:
        for name in ("mlp", "2c2d", "transformer"):
            convolves = WORKLOADS[name].convolves
            for form in ("native", "patches") if convolves else ("",):
                title = f"{members} x {name} {form}".strip()
                yield title, partial(case, name, form, members)
    yield "measured.py", table


def jobs(bench: Bench) -> Iterator[Case]:
    number = 10 if bench.small else 100

    def case() -> list[Row]:
        prepare = ("debug=tiny", "wandb=disabled", f"hydra.run.dir={bench.folder}/tiny")
        sweep.wall([sys.executable, "-m", "runner", *prepare])  # the data
        ways: Ways = {
            "packed": partial(sweep.scratch, sweep.packed, number),
            "by hand": partial(sweep.scratch, sweep.hand, number),
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
