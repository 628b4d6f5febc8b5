"""How far each mesh drifts from one device, for every optimizer and for the cnn.

    python benchmarks/meshes.py

The largest relative difference of the losses of a few steps, on 8 virtual CPU devices,
and in two processes with two devices each.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import numpy as np
from configuration import composed

from runner.config import conf
from runner.core.run import Host
from runner.job import processes
from runner.job.build import build
from runner.job.processes import Processes
from runner.job.session import Session

MESHES = ("data", "fsdp", "data_fsdp")
MLP = ("model.hidden_sizes=[16]", "mesh.min_shard_elements=64")
CNN = ("model=cnn", "mesh.min_shard_elements=64")
# With its rank of 128, larger than that of the gradients, galore gives Adam components
# that are nothing but rounding, which Adam scales up to the size of a step.
OWN = {"galore": ("optimizer.rank=4",)}


class Renamed:
    """The client of the coordinator, with separate names for each of several runs."""

    def __init__(self, client: Any, run: int):
        self._client, self._run = client, run

    def __getattr__(self, method: str) -> Any:
        called = getattr(self._client, method)
        return lambda name, *others: called(f"{self._run}/{name}", *others)


def short(steps: int, *overrides: str) -> Any:
    length = ("train.epochs=null", f"train.steps={steps}", "train.log_every_steps=1")
    return composed("verify=false", *length, *overrides)


def losses(cfg: Any, own: Processes | None = None) -> np.ndarray:
    """The losses of each step, and of the evaluation after the last."""
    rows: list[dict] = []
    session = Session(own)
    host = Host(lambda index, row: rows.append(row), agree=session.processes.agree)
    session.train(build(cfg, session).run, host)
    return np.array([row["train/loss"] for row in rows] + [rows[-1]["validation/loss"]])


def one_of_two(cases: Sequence[tuple[str, ...]], steps: int, own: list[str]) -> None:
    """Train all of them as one process of two, and print the losses of each."""
    with processes.connected(short(steps, *own)) as peers:
        client = processes._client()
        for run, case in enumerate(cases):
            processes._client = lambda run=run: Renamed(client, run)
            cfg = short(steps, *case, "mesh=data_fsdp", *own)
            print("losses", json.dumps(losses(cfg, peers).tolist()), flush=True)
        processes._client = lambda: client


def start_two(arguments: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, __file__, *arguments, "--one-of-two",
             f"distributed.coordinator_address={address}",
             "distributed.num_processes=2", f"distributed.process_id={i}"],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.DEVNULL if i else subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--optimizers", nargs="*", help="all of them by default")
    parser.add_argument("--one-of-two", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    found = sorted(path.stem for path in (conf.conf_dir() / "optimizer").glob("*.*"))
    names = args.optimizers or found
    cases = [(f"optimizer={name}", *OWN.get(name, ()), *MLP) for name in names]
    cases += [(f"framework={f}", *CNN) for f in ("jax", "linen", "nnx")]
    if args.one_of_two:
        one_of_two(cases, args.steps, args.one_of_two)
    else:
        compare(cases, args)


def compare(cases: Sequence[tuple[str, ...]], args: argparse.Namespace) -> None:
    print(f"{'':32}" + "".join(f"{mesh:>12}" for mesh in (*MESHES, "2 processes")))
    past = []
    two = start_two(sys.argv[1:])
    told = two[0].stdout
    assert told is not None
    try:
        for case in cases:
            name = "cnn " * ("model=cnn" in case) + case[0]
            one = losses(short(args.steps, *case, "mesh=single"))
            several = [
                losses(short(args.steps, *case, f"mesh={mesh}")) for mesh in MESHES
            ]
            line = next(x for x in told if x.startswith("losses"))  # Gloo talks too
            several.append(np.array(json.loads(line.removeprefix("losses"))))
            off = [float(np.max(np.abs(s - one) / np.abs(one))) for s in several]
            print(f"{name:32}" + "".join(f"{x:12.1e}" for x in off), flush=True)
            if not max(off) <= args.tolerance:
                past.append(name)
    finally:
        for process in two:
            process.kill()
    print(f"past {args.tolerance:g}: {', '.join(past) or 'none'}")
    sys.exit(bool(past))


if __name__ == "__main__":
    main()
