"""What checkpoints cost: a CNN trained with one every 100 steps, and without any.

    python benchmarks/checkpoint.py

The two take turns, so that other load on the machine affects both. The ratio is that of
the wall times of training, without compilation, but with writing rows and waiting for
the last save. The CNN is that of benchmarks/step.py: 28x28 images, batches of 64. The
first save of a process also imports Orbax; that is reported separately. Where other
programs keep the machine busy, the ratio of CPU times, also printed, varies less.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from configuration import SESSION
from step import make_run

from runner.core.run import Run
from runner.job.checkpoint import Checkpoints
from runner.job.interruption import Interruption
from runner.job.prepared import checkpoint_record
from runner.job.run import host_of
from runner.job.session import Session
from runner.record.recorder import Recorder
from runner.settings import CheckpointSettings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=100, help="steps (100)")
    options = parser.parse_args()
    run = make_run("nnx", "cnn", options.steps)
    session = SESSION
    session.program(run.spec, run.values, run.timetable)
    started = time.perf_counter()
    import orbax.checkpoint  # noqa: F401

    print(f"importing Orbax, once a process: {time.perf_counter() - started:.2f} s")
    ratios, cpu_ratios = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for index in range(options.rounds + 1):
            seconds = {}
            for every in (options.every, None) if index % 2 else (None, options.every):
                folder = Path(temporary, f"{index}-{every}")
                seconds[every] = trained(run, session, folder, every)
            if index == 0:  # warms up
                continue
            (wall, cpu), (wall_without, cpu_without) = (
                seconds[options.every], seconds[None]
            )  # fmt: skip
            ratios.append(wall / wall_without)
            cpu_ratios.append(cpu / cpu_without)
            print(f"with {wall:.2f} s, without {wall_without:.2f} s, ratio "
                  f"{ratios[-1]:.3f}; of CPU times {cpu_ratios[-1]:.3f}")  # fmt: skip
    print(
        f"a checkpoint every {options.every} steps: wall time times "
        f"{statistics.median(ratios):.3f} (median of {options.rounds} rounds, from "
        f"{min(ratios):.3f} to {max(ratios):.3f}), CPU time times "
        f"{statistics.median(cpu_ratios):.3f}; {os.cpu_count()} CPUs"
    )


def trained(
    run: Run, session: Session, folder: Path, every: int | None
) -> tuple[float, float]:
    """Wall and CPU seconds of training with a checkpoint every so many steps."""
    recorder = Recorder(
        folder,
        config=run.config,
        provenance={"directions": {"loss": "min"}},
        trackers={},
        total_steps=len(run.learning_rates),
        quiet=True,
    )
    settings = CheckpointSettings(every, None, 1, False, False, "never")
    checkpoints = Checkpoints(
        folder / "checkpoints", settings, "validation/loss",
        lambda step: checkpoint_record(run, step) | recorder.state(),
    )  # fmt: skip
    host = host_of(
        lambda index, row: recorder.row(row), lambda index, row: False,
        lambda index, state, numbers: None, lambda: None, checkpoints, Interruption(),
        session.processes,
    )  # fmt: skip
    with recorder:
        wall, cpu = time.perf_counter(), time.process_time()
        with checkpoints:
            session.train(run, host)
        return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
