"""What `accelerator.py` measures: sections of cases, each of which compares ways."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from by_hand import nnx_loop, nnx_scan, scan_loop
from step import SESSION, runner_loop
from timing import in_turn, median_ratio
from workloads import WORKLOADS, built

import sweep
from runner.core import feed, step
from runner.core.run import Host, Run
from runner.core.train import train
from runner.job import determinism
from runner.record.files import read_metrics

MEMBERS = (8, 32, 128, 1)
Ways = dict[str, Callable[[], float]]


class Row(NamedTuple):
    """One way of a case.

    Attributes:
      section, case, way: what was measured.
      micros: the median time of a step of one member.
      ratio: its time relative to that of the first way of the case.
      rounds: how often it was measured.
      said: what else was found.
    """

    section: str
    case: str
    way: str
    micros: float | None = None
    ratio: float | None = None
    rounds: int = 0
    said: str = ""


class Bench:
    """What all cases share.

    Args:
      small: whether models are small.
      repeats: the most rounds of a case.
      minutes: the time for all of it.
      folder: for files that are removed afterwards.
    """

    def __init__(self, small: bool, repeats: int, minutes: float, folder: Path):
        self.small, self.folder, self._repeats = small, folder, repeats
        self.until = time.monotonic() + 60 * minutes
        self.on_cpu = jax.default_backend() == "cpu"

    def steps(self, name: str) -> int:
        """The steps of a run of the workload `name`."""
        return WORKLOADS[name].steps[2 if self.small else self.on_cpu]

    def scans(self, name: str) -> bool:
        """Whether to loop by hand: on CPU, not over convolutions (jax #12868)."""
        return self.small or not (self.on_cpu and WORKLOADS[name].convolves)

    def built(self, name: str, framework: str, *more: str, part: int = 1) -> Any:
        """See `workloads.built`; of 1/`part` of the steps, but at least 8 if it has."""
        steps = max(min(8, self.steps(name)), self.steps(name) // part)
        return built(name, framework, steps, self.small, more)

    def rows(
        self, section: str, case: str, ways: Ways, count: dict[str, int], **how: Any
    ) -> list[Row]:
        """Time `ways`, each of which takes `count` steps of members."""
        seconds = in_turn(ways, self._repeats, until=self.until, **how)
        each = {w: [t / count[w] for t in times] for w, times in seconds.items()}
        first = next(iter(ways))
        return [
            Row(
                section, case, way, 1e6 * statistics.median(times),
                median_ratio(times, each[first]), len(times),
            )
            for way, times in each.items()
        ]  # fmt: skip


Case = tuple[str, Callable[[], list[Row]]]


def framework_of(name: str) -> str:
    """Pure JAX, in which a step is traced fastest, where the model has that form."""
    return "nnx" if name in ("cnn", "transformer") else "jax"


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

    def timed(go: Callable[[], Any]) -> float:
        started = time.perf_counter()
        go()
        return time.perf_counter() - started

    def together(run: Run, members: int) -> None:
        program = SESSION.program(run.spec, run.values, run.timetable, members)
        for _, error in train(program, [run] * members, nowhere):
            if error:
                raise error

    def case(name: str, members: int) -> list[Row]:
        run, _ = bench.built(name, framework_of(name), part=10)
        steps = len(run.learning_rates)
        alone = partial(timed, lambda: SESSION.train(run, nowhere))
        alone()  # compiles
        wait = members * alone()
        if time.monotonic() + wait > bench.until:
            raise TimeoutError(f"it would take about {wait:.0f} s")
        ways: Ways = {
            "side by side": partial(timed, lambda: together(run, members)),
            "one after the other": alone,
        }
        count = {"side by side": steps * members, "one after the other": steps}
        return bench.rows("packing", f"{members} x {name}", ways, count)

    for members in (2,) if bench.small else MEMBERS:
        for name in ("mlp", "2c2d", "transformer"):
            yield f"{members} x {name}", partial(case, name, members)


def printed(folder: Path, *arguments: str, module: str = "runner") -> str:
    """What a command prints that ends well.

    Raises:
      RuntimeError: it doesn't.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RuntimeError(f"{module} exits with {done.returncode}: {' '.join(last)}")
    return done.stdout


def bits(bench: Bench) -> Iterator[Case]:
    half = 5 if bench.small else 100
    size = ("model.channels=[2,4]", "model.hidden_size=8") if bench.small else ()
    fixed = (
        "model=cnn", *size, "mesh=single", "train.epochs=null", "wandb=disabled",
        "train.log_every_steps=5", f"train.eval_every_steps={half}",
        "checkpoint.last=true", f"compilation_cache={bench.folder}/xla",
    )  # fmt: skip
    whole = f"train.steps={2 * half}"

    def rows_of(run: str) -> list[dict]:
        found = read_metrics(bench.folder / run / "metrics.jsonl")
        return [{k: v for k, v in row.items() if "time/" not in k} for row in found]

    def same(case: str, one: str, other: str) -> list[Row]:
        if rows_of(one) != rows_of(other):
            raise AssertionError(f"the rows of {one} and {other} differ")
        return [Row("bits", case, "cnn", said=f"all {len(rows_of(one))} rows equal")]

    def replayed() -> list[Row]:
        printed(bench.folder, *fixed, whole, "hydra.run.dir=whole")
        said = printed(bench.folder, "whole", module="runner.replay").splitlines()[-1]
        if "bit for bit" not in said:
            raise AssertionError(said)
        return [Row("bits", "replay", "cnn", said=said.partition(": ")[2])]

    def resumed() -> list[Row]:
        for length in (f"train.steps={half}", whole):
            printed(bench.folder, *fixed, length, "hydra.run.dir=resumed")
        return same("resume", "whole", "resumed")

    def packed() -> list[Row]:
        for name in ("one", "other"):
            printed(
                bench.folder, "-m", *fixed, whole, "seed=0,1,2,3",
                "hydra.launcher.strategy=vmap", f"hydra.sweep.dir={name}",
            )  # fmt: skip
        return same("packed", "one/seed=3", "other/seed=3")

    yield from (("replay", replayed), ("resume", resumed), ("packed", packed))


def deterministic(bench: Bench) -> Iterator[Case]:
    def steps_of(run: Run, option: bool) -> Callable[[], tuple[float, bytes]]:
        spec, count = run.spec, len(run.learning_rates)
        one = step.train_step(
            spec.pipeline, spec.task, spec.dataset.transforms, spec.microbatches
        )
        options = {determinism.FLAG.removeprefix("--"): option}
        call = jax.jit(step.train_call(one, 1, count), compiler_options=options)
        columns = feed.device_data(spec.dataset, spec.mesh).train
        batches = feed.TrainFeed(spec.dataset, [run.order], spec.mesh, 0).take(count)
        numbers = run.values.hyperparameters
        start = spec.init(run.init_key, run.learning_rates[0], numbers)

        def go() -> tuple[float, bytes]:
            started = time.perf_counter()
            _, rows = call(
                start, columns, batches, run.learning_rates, np.int32(0),
                np.float32(np.inf), run.values,
            )  # fmt: skip
            losses = np.asarray(rows["train/loss"])
            return time.perf_counter() - started, losses.tobytes()

        return go

    def case(name: str) -> list[Row]:
        run, _ = bench.built(name, framework_of(name), part=5)
        found: dict[str, list[bytes]] = {"deterministic": [], "not": []}

        def way(name: str, go: Callable[[], tuple[float, bytes]]) -> float:
            seconds, losses = go()
            found[name].append(losses)
            return seconds

        ways: Ways = {
            name: partial(way, name, steps_of(run, name == "deterministic"))
            for name in found
        }
        count = dict.fromkeys(ways, len(run.learning_rates))
        rows = bench.rows("determinism", name, ways, count)
        kinds = {way: len(set(all_of)) for way, all_of in found.items()}
        if kinds["deterministic"] > 1:
            raise AssertionError(f"{name}: deterministic repeats differ")
        said = {way: f"{n} results in {len(found[way])}" for way, n in kinds.items()}
        return [row._replace(said=said[row.way]) for row in rows]

    for name in filter(bench.scans, ("mlp", "cnn", "2c2d", "transformer")):
        yield name, partial(case, name)


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


SECTIONS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "loop": loop,
    "packing": packing,
    "bits": bits,
    "determinism": deterministic,
    "jobs": jobs,
    "precision": precision,
}
