"""What it takes to compare many runs, with the page and its figures.

    python benchmarks/compare.py [--runs 1000] [--rows 200]

A small run is trained and copied, with other optimizers, learning rates, seeds and
losses. Then `python -m runner.compare` reads the copies in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import load

OPTIMIZERS = ("sgd", "adam", "adamw", "lion", "rmsprop")
RATES = (0.1, 0.03, 0.01, 0.003, 0.001)
FILES = ("config", "provenance", "summary")


def copies(source: Path, out: Path, runs: int, rows: int) -> None:
    """Make `runs` runs of `rows` rows each from the one in `source`."""
    rng = np.random.default_rng(0)
    last = json.loads((source / "metrics.jsonl").read_text().splitlines()[-1])
    for index in range(runs):
        seed, way = divmod(index, len(OPTIMIZERS) * len(RATES))
        optimizer, rate = OPTIMIZERS[way % 5], RATES[way // 5]
        texts = {name: (source / f"{name}.json").read_text() for name in FILES}
        config, provenance, summary = (json.loads(text) for text in texts.values())
        config["seed"] = seed
        config["optimizer"] |= {"_target_": optimizer, "learning_rate": rate}
        config["schedule"]["value"] = rate
        config["hydra"]["choices"]["optimizer"] = optimizer
        for name in ("initial_parameters", "data_order", "first_batch"):
            provenance[name] = str(seed)
        provenance["optimizer_probe"] = [float(way % 5)]
        loss = np.geomspace(2.3, 0.3 + 0.1 * rng.random(), rows)
        loss[1:] *= 1 + 0.02 * rng.standard_normal(rows - 1)
        named = [{"train/loss": x, "validation/loss": 1.1 * x} for x in loss.tolist()]
        summary["final"] |= named[-1]
        folder = out / f"optimizer={optimizer},learning_rate={rate},seed={seed}"
        folder.mkdir(parents=True)
        for name, tree in zip(FILES, (config, provenance, summary), strict=True):
            (folder / f"{name}.json").write_text(json.dumps(tree, indent=2))
        lines = [last | {"step": 10 * i + 1} | row for i, row in enumerate(named)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)


def seconds(*command: str) -> tuple[float, float]:
    """The time that a command takes, and that of the processors."""
    started, before = time.perf_counter(), sum(os.times()[2:4])
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    return time.perf_counter() - started, sum(os.times()[2:4]) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=200)
    args = parser.parse_args()
    print("command  python", *sys.argv, f"\n{load()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = ("train.epochs=1", "wandb=disabled", f"hydra.run.dir={folder / 'one'}")
        seconds("runner", *small)
        copies(folder / "one", folder / "runs", args.runs, args.rows)
        asked = ("--by", "optimizer", "--out", str(folder / "out"))
        for what in ("with the page", "--no-report"):
            more = (what,) * what.startswith("--")
            wall, cpu = seconds("runner.compare", str(folder / "runs"), *asked, *more)
            print(f"{what:<14} {wall:5.1f} s, {cpu:5.1f} s of the processors")


if __name__ == "__main__":
    main()
