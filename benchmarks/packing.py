"""Microseconds that a member's step takes, by how many members train side by side.

    PYTHONPATH=examples python benchmarks/packing.py --rounds 5

Populations take turns, so that other load on the machine affects all of them, and the
fastest of the rounds counts. Only training is timed, with nothing written. Prints the
rows of src/runner/core/measured.py, and what `runner.core.choose` takes of each.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import hydra
import jax
from omegaconf import OmegaConf, open_dict
from step import images
from timing import load

from runner.config import conf
from runner.core import choose
from runner.core.convolution import has_convolution
from runner.core.measured import Measured
from runner.core.program import step_jaxpr
from runner.core.run import Host, Run
from runner.core.train import train
from runner.job.build import build
from runner.job.session import Session

SIZES = (1, 4, 8, 32)
TEXT = ["data=counting", "model=transformer", "task.mask=counts"]
IMAGES = ["model=cnn"]
# overrides, and steps, so that one run takes some tenths of a second.
MODELS = {
    "mlp [16]": (["model.hidden_sizes=[16]"], 2000),
    "mlp [128, 64]": (["model.hidden_sizes=[128,64]"], 1000),
    "mlp [512, 256]": (["model.hidden_sizes=[512,256]"], 200),
    "mlp [1024, 1024]": (["model.hidden_sizes=[1024,1024]"], 40),
    "transformer 32": ([*TEXT, "model.width=32"], 10),
    "transformer 128": ([*TEXT, "model.width=128"], 4),
    "cnn": ([*IMAGES, "train.convolution=native"], 8),
    "cnn, patches": ([*IMAGES, "train.convolution=patches"], 8),
}


def make_runs(overrides: list[str], steps: int, session: Session) -> list[Run]:
    """As many runs of one program as the largest population has members."""
    examples = Path(__file__).parents[1] / "examples" / "my_lab" / "conf"
    fixed = [
        *overrides, "train.epochs=null", f"train.steps={steps}", "verify=false",
        "mesh=single", f"train.eval_every_steps={steps}", "data.batch_size=64",
        f"hydra.searchpath=[file://{examples}]",
    ]  # fmt: skip
    cfg: Any = hydra.compose("config", fixed)
    if "model=cnn" in overrides and "data=digits" not in overrides:
        with open_dict(cfg):
            target = f"{images.__module__}.{images.__name__}"
            cfg.data = OmegaConf.create({"_target_": target, "batch_size": 64})
    runs = []
    for cfg.seed in range(max(SIZES)):
        runs.append(build(cfg, session).run)
    return runs


def measure(
    sizes: list[int], rounds: int, overrides: list[str], steps: int
) -> tuple[Run, dict[int, float]]:
    """One of the runs, and the seconds of a member's step by the population's size."""
    session = Session()
    runs = make_runs(overrides, steps, session)
    best = dict.fromkeys(sizes, float("inf"))
    for turn in range(rounds + 1):  # the first one compiles
        for size in sizes:
            members = size if size > 1 else None
            run = runs[0]
            program = session.program(run.spec, run.values, run.timetable, members)
            started = time.perf_counter()
            for _, error in train(program, runs[:size], Host(lambda *_: None)):
                raise error
            seconds = (time.perf_counter() - started) / size / steps
            if turn:
                best[size] = min(best[size], seconds)
    return runs[0], best


def measured(run: Run, microseconds: dict[int, float]) -> Measured:
    """The row of `runner.core.measured` for runs like `run` on this device."""
    device, jaxpr = jax.devices()[0], step_jaxpr(run.spec, run.values)
    return Measured(
        device.platform,
        device.device_kind,
        has_convolution(jaxpr),
        float(f"{choose.flops(jaxpr):.3g}"),
        {n: float(f"{microseconds[n]:.4g}") for n in sorted(microseconds)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--most", type=int, default=max(SIZES), help="members")
    args = parser.parse_args()
    print("command  python", *sys.argv)
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs, {jax.devices()[0]}")
    print(load())
    conf.register()
    sizes = [size for size in SIZES if size <= args.most]
    with hydra.initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        for name in args.models:
            run, seconds = measure(sizes, args.rounds, *MODELS[name])
            row = measured(run, {size: 1e6 * took for size, took in seconds.items()})
            jaxpr = step_jaxpr(run.spec, run.values)
            taken = choose.side_by_side(jaxpr, row.platform, row.kind)
            print(f"{name}: {taken} side by side\n    {row}", flush=True)
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
