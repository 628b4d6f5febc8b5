"""Training speed compared with loops by hand: same model, batches and optimizer.

    python benchmarks/step.py --steps 20000 --cnn-steps 200 --repeats 5
    python benchmarks/step.py --augment --steps 1000 --cnn-steps 50 --repeats 15

Loops take turns, so that other load on the machine affects all of them. A ratio is the
speed of the runner's slowest framework over that of the other loop (in the rows of the
runner: that framework's over the fastest one's), from the median seconds and as the
median of each round's ratio. Start-up and compilation are left out; the runner's time
includes its W&B run and its files, while the others log nothing. With --augment, the
runner with random crops and flips of its batches takes turns with the runner without.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from by_hand import classification, cnn_loop, nnx_loop, scan_loop
from configuration import SESSION, composed
from flax import nnx
from timing import in_turn, load, median_ratio

from runner.core.run import Host, Run
from runner.data.dataset import Dataset, MemorySplit
from runner.data.transforms import flip, pad_and_crop, scale
from runner.job.build import build
from runner.models import mlp
from runner.record.mirrors import helper
from runner.record.recorder import Recorder

FRAMEWORKS = ("jax", "linen", "nnx")
MODELS = ("mlp", "cnn")
CLASSES = 10
helper.WAIT_SECONDS = 600.0  # for the mirrors of all loops
WANDB = {"wandb": {"_target_": "runner.record.mirrors.wandb.WandbTracker"}}


def images(batch_size: int, augment: bool = False) -> Dataset:
    """Random 28x28 images and labels."""
    augmented = [pad_and_crop(column="input", padding=2), flip(column="input")]
    rng = np.random.default_rng(0)

    def split(size):
        pixels = rng.integers(0, 256, (size, 28, 28, 1), np.uint8)
        labels = rng.integers(0, CLASSES, size, np.int32)
        return MemorySplit({"input": pixels, "label": labels})

    return Dataset(
        name="images",
        splits={"train": split(4096), "validation": split(64)},
        classes={"label": CLASSES},
        batch_size=batch_size,
        mode="device",
        transforms=[
            *(augmented if augment else []),
            scale(column="input", subtract=127.5, divide=127.5),
        ],
    )


# As overrides; they need a batch size.
IMAGES = "~data", f"+data._target_={__name__}.images", "+data.batch_size=null"


def make_run(
    framework: str,
    model: str,
    steps: int,
    log_every_steps: int = 100,
    augment: bool | None = None,
) -> Run:
    """The MLP on digits and the CNN on images; both on images if `augment` is given."""
    batch_size = 64 if augment is None else 128
    overrides = [
        f"framework={framework}",
        f"model={model}",
        f"train.steps={steps}",
        "train.epochs=null",
        f"train.log_every_steps={log_every_steps}",
        f"train.eval_every_steps={steps}",
    ]
    if model == "cnn" or augment is not None:
        overrides += [*IMAGES, f"+data.augment={bool(augment)}"]
    return build(composed(*overrides, f"data.batch_size={batch_size}"), SESSION).run


def runner_loop(run: Run, folder: Path, wandb: str = "offline") -> Callable[[], float]:
    """Do what `python -m runner` does after `build`; times the training in it."""
    numbers = iter(range(10**6))

    def loop():
        recorder = Recorder(
            folder / str(next(numbers)),
            config=run.config | {"wandb": {"mode": wandb}},
            provenance={"directions": {"loss": "min"}},
            trackers=WANDB,
            total_steps=len(run.learning_rates),
            quiet=True,
        )
        with recorder:
            started = time.perf_counter()
            SESSION.train(run, Host(lambda index, row: recorder.row(row)))
            seconds = time.perf_counter() - started
        recorder.mirror.wait()  # W&B must not slow the next loop
        return seconds

    return loop


def compare(title: str, loops: dict[str, Callable], steps: int, repeats: int) -> None:
    """Time the loops in turn and print the runner's speed relative to each."""
    seconds = in_turn(loops, repeats)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = sorted((n for n in loops if n.startswith("runner")), key=medians.get)
    print(f"\n{title}: {steps} steps\n{'':<32}us/step  ratio  by round")
    for name in loops:
        # Ours beside the fastest of ours, the others beside the slowest of ours.
        above, below = (ours[0], name) if name in ours else (name, ours[-1])
        ratio = medians[above] / medians[below]
        by_round = median_ratio(seconds[above], seconds[below])
        micros = medians[name] / steps * 1e6
        print(f"{name:<32}{micros:7.0f}{ratio:7.2f}{by_round:10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--steps", type=int, default=20_000, help="of the MLP")
    parser.add_argument("--cnn-steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--augment", action="store_true")
    args = parser.parse_args()
    print("command  python", *sys.argv)
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs, {jax.devices()[0]}")
    print(load())
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            steps = args.steps if model == "mlp" else args.cnn_steps
            if args.augment:
                loops = {}
                for name, augment in (("plain", False), ("augmented", True)):
                    run = make_run("jax", model, steps, augment=augment)
                    path = Path(folder) / f"{model}-{name}"
                    loops[f"runner, {name}"] = runner_loop(run, path, "disabled")
                compare(f"{model} on 28x28 images", loops, steps, args.repeats)
                continue
            runs = {f: make_run(f, model, steps) for f in FRAMEWORKS}
            if model == "mlp":
                title = "MLP on digits"
                sizes = (128, 64, CLASSES)
                tutorial = mlp.Nnx(64, sizes, jax.nn.relu, 0.0, "float32", nnx.Rngs(0))
                loops = {
                    "nnx.jit, one call a step": nnx_loop(
                        runs["jax"], tutorial, classification, min(steps, 1000)
                    ),
                    "lax.scan by hand": scan_loop(runs["jax"]),
                }
            else:
                title = "CNN on 28x28 images"
                loops = {"jit by hand, one call a step": cnn_loop(runs["jax"])}
            for framework, run in runs.items():
                path = Path(folder) / f"{model}-{framework}"
                loops[f"runner, {framework}"] = runner_loop(run, path)
            compare(title, loops, steps, args.repeats)
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
