"""The cost of logging: W&B and JSONL every ten steps, compared with none.

    python benchmarks/recording.py --repeats 5

The training time of one process, three ways in turn. The digits MLP is the hard case:
its step takes a tenth of a millisecond.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from configuration import SESSION
from step import make_run, runner_loop
from timing import load

from runner.core.run import Host, Run


def unrecorded(run: Run) -> Callable[[], float]:
    def loop():
        started = time.perf_counter()
        SESSION.train(run, Host(lambda index, row: None))
        return time.perf_counter() - started

    return loop


def compare(model: str, steps: int, repeats: int, folder: Path) -> None:
    run = make_run("nnx", model, steps, log_every_steps=10)
    quiet = make_run("nnx", model, steps, log_every_steps=steps)
    ways = {
        "none": unrecorded(quiet),
        "JSONL": runner_loop(run, folder / model / "files", "disabled"),
        "JSONL and W&B": runner_loop(run, folder / model / "wandb", "offline"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for loop in ways.values():
        loop()
    for _ in range(repeats):
        for name, loop in ways.items():
            seconds[name].append(loop())
    print(f"\n{model}, {steps} steps\n{'':<16}us/step   against none")
    for name, times in seconds.items():
        pairs = zip(times, seconds["none"], strict=True)
        ratio = statistics.median(ours / none for ours, none in pairs)
        micros = statistics.median(times) / steps * 1e6
        print(f"{name:<16}{micros:7.0f}{ratio:10.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print("command  python", *sys.argv, f"\n{load()}")
    with tempfile.TemporaryDirectory() as folder:
        for model, steps in (("mlp", 40_000), ("cnn", 600)):
            compare(model, steps, args.repeats, Path(folder))
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
