"""Kill runs at random moments, resume them, and check that the results are the same.

    python scripts/kill_and_resume.py --kills 20

Each case, a run, a packed sweep or a run of two processes, is trained once without
interruption. Then it is trained again, killed at random moments and started again by
the same command until it has had its share of the kills, and left to finish. Its rows,
except for timings, and all arrays of its last checkpoints must equal those of the
uninterrupted one, bit for bit. Otherwise the exit status is 1.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from runner.record.files import read_metrics

COMMON = (
    "train.epochs=null", "train.log_every_steps=1", "checkpoint.last=true",
    "wandb=disabled", "verify=false",
)  # fmt: skip
CASES = {
    "nnx, plateau of the evaluation, EMA": (
        "schedule=reduce_on_plateau", "schedule.watch=validation",
        "schedule.unit=steps",
        "schedule.patience=60", "schedule.rtol=0.1", "train.eval_every_steps=30",
        "train.ema_decay=0.95", "train.steps=2000", "checkpoint.every_steps=50",
    ),
    "linen, fed from the host, accumulation, dropout": (
        "framework=linen", "data.mode=memory", "train.gradient_accumulation=2",
        "model.dropout=0.2", "schedule=cosine", "train.steps=1200",
        "checkpoint.every_steps=70", "checkpoint.keep=3", "checkpoint.best=true",
    ),
    "jax, cnn with BatchNorm and dropout, by the clock": (
        "framework=jax", "model=cnn", "model.dropout=0.1", "model.channels=[4,8]",
        "optimizer=adamw", "train.eval_every_steps=37", "train.steps=400",
        "checkpoint.every_minutes=0.005",
    ),
    "schedule-free, streamed": (
        "optimizer=schedule_free_adamw", "data.mode=stream", "train.steps=1500",
        "checkpoint.every_steps=40",
    ),
    "a packed sweep": (
        "-m", "seed=0,1,2", "optimizer.learning_rate=1e-3,1e-2", "train.steps=2000",
        "model.hidden_sizes=[32]", "checkpoint.every_steps=100",
        "train.eval_every_steps=100",
    ),
    "two processes": (
        "mesh=data", "data.mode=memory", "train.steps=300", "model.hidden_sizes=[32]",
        "checkpoint.every_steps=40",
    ),
}  # fmt: skip
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="over all cases (20)")
    parser.add_argument("--signal", choices=SIGNALS, default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports what it lacks
    chance = random.Random(options.seed)
    cases = [(name, CASES[name]) for name in options.cases]
    shares = [options.kills // len(cases)] * len(cases)
    shares[0] += options.kills - sum(shares)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for i, ((name, overrides), share) in enumerate(zip(cases, shares, strict=True)):
            folder = Path(temporary) / str(i)
            number = SIGNALS[options.signal]
            steps, differences = check(folder, overrides, share, chance, number)
            told = "; ".join(differences) or "the same bits"
            print(f"{name}: {share} x {options.signal}, at steps {steps}: {told}",
                  flush=True)  # fmt: skip
            failed += bool(differences)
    return int(failed > 0)


def check(
    folder: Path, overrides: tuple[str, ...], kills: int, chance: random.Random, number
) -> tuple[list[int], list[str]]:
    """Train with and without kills: the steps of the kills, and the differences."""
    whole, killed = folder / "whole", folder / "killed"
    begun = time.monotonic()
    processes = start(whole, overrides)
    wait_for_rows(whole, processes, 0)
    started = time.monotonic()
    finish(processes)
    startup, training = started - begun, time.monotonic() - started
    steps: list[int] = []
    differences: list[str] = []
    while len(steps) < kills:
        before = size(killed)
        processes = start(killed, overrides)
        if chance.random() < 0.2:  # before or about when it begins to train
            time.sleep(chance.uniform(0, startup))
        else:
            wait_for_rows(killed, processes, before)
            time.sleep(chance.uniform(0, 2 * training / (kills + 1)))
        for process in processes:
            process.send_signal(number)
        if finish(processes, number) and not has_finished(killed):
            steps.append(last_step(killed))
        else:  # too late: it had finished
            differences += compare(whole, killed)
            shutil.rmtree(killed)
    finish(start(killed, overrides))
    return steps, differences + compare(whole, killed)


def start(folder: Path, overrides: tuple[str, ...]) -> list[subprocess.Popen]:
    """Start the processes of a run or of a sweep in `folder`."""
    into = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
    command = [sys.executable, "-m", "runner", *overrides, *COMMON, f"{into}={folder}"]
    given: list[tuple[str, ...]] = [()]
    if "mesh=data" in overrides:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        together = (
            "distributed.num_processes=2", f"distributed.coordinator_address={address}"
        )  # fmt: skip
        given = [(*together, f"distributed.process_id={i}") for i in range(2)]
    return [
        subprocess.Popen(
            [*command, *own],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(len(given))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for own in given
    ]


def finish(processes: list[subprocess.Popen], number: int | None = None) -> int:
    """Wait for their end, which must be a success unless `number` was sent to them.

    Returns:
      the exit status of the first.
    """
    allowed = (0, *([] if number is None else [-number, 75]))
    for process in processes:
        _, told = process.communicate()
        if process.returncode not in allowed:
            raise SystemExit(f"exit status {process.returncode}:\n{told.decode()}")
    return processes[0].returncode


def runs(folder: Path) -> dict[str, Path]:
    """The folders with rows, by their names in `folder`."""
    # A run's own or a sweep's; not deeper, where checkpoints come and go meanwhile.
    patterns = "metrics.jsonl", "*/metrics.jsonl"
    found = sorted(file.parent for each in patterns for file in folder.glob(each))
    return {str(path.relative_to(folder)): path for path in found}


def size(folder: Path) -> int:
    return sum((p / "metrics.jsonl").stat().st_size for p in runs(folder).values())


def last_step(folder: Path) -> int:
    rows = [read_metrics(p / "metrics.jsonl") for p in runs(folder).values()]
    return max((each[-1]["step"] for each in rows if each), default=0)


def status(folder: Path) -> str | None:
    summary = folder / "summary.json"
    return json.loads(summary.read_text())["status"] if summary.exists() else None


def has_finished(folder: Path) -> bool:
    ledger = folder / "sweep.json"
    if ledger.exists():
        jobs = json.loads(ledger.read_text())["jobs"].values()
        return all(job["state"] == "done" for job in jobs)
    return status(folder) == "finished"


def wait_for_rows(folder: Path, processes: list[subprocess.Popen], before: int) -> None:
    """Wait until there are more rows than before, or the first process has ended."""
    while processes[0].poll() is None and size(folder) <= before:
        time.sleep(0.001)


def compare(whole: Path, killed: Path) -> list[str]:
    """The differences between two finished runs or sweeps."""
    one, other = runs(whole), runs(killed)
    if set(one) != set(other):
        return [f"runs {sorted(one)}, but {sorted(other)}"]
    return [
        f"{name}: {found}"
        for name in one
        for found in compare_runs(one[name], other[name])
    ]


def compare_runs(whole: Path, killed: Path) -> list[str]:
    found = []
    rows, others = (
        [
            {k: repr(v) for k, v in row.items() if not k.startswith("time/")}
            for row in read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (whole, killed)
    )
    if [row["step"] for row in rows] != [row["step"] for row in others]:
        found.append(f"{len(rows)} rows, but {len(others)}")
    for row, other in zip(rows, others, strict=False):
        if row != other:
            keys = [key for key in row if row[key] != other.get(key)]
            found.append(f"step {row['step']}: {', '.join(keys)}")
            break
    arrays, theirs = (arrays_of(folder) for folder in (whole, killed))
    for name in arrays | theirs:
        if name not in arrays or name not in theirs:
            found.append(f"{name} is in one of them only")
        elif arrays[name].tobytes() != theirs[name].tobytes():
            found.append(f"{name} differs")
    ended = status(killed)
    return found if ended == "finished" else [*found, f"status {ended}"]


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint."""
    steps = [path.name for path in (folder / "checkpoints").iterdir()]
    last = max(int(name) for name in steps if name.isdigit())  # others are half-written
    path = (folder / "checkpoints" / str(last) / "state").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        # As NumPy arrays, which need none of the devices that saved them.
        on_host = ocp.RestoreArgs(restore_type=np.ndarray)
        shapes = reader.metadata(path).item_metadata.tree
        tree = reader.restore(
            path, restore_args=jax.tree.map(lambda _: on_host, shapes)
        )
    leaves = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return {"step": np.array(last)} | named


if __name__ == "__main__":
    sys.exit(main())
