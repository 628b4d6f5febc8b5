"""Sections of accelerator.py about bits: what repeats them, and what that costs."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from bench import Bench, Case, Row, Ways, framework_of

from runner.core import feed, step
from runner.core.run import Run
from runner.job import determinism
from runner.record.files import read_metrics


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
        call = jax.jit(
            step.train_call(one, 1, count, looped=True, devices=1),
            compiler_options=options,
        )
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
