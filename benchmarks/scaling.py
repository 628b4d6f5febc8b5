"""What crosses devices in a step as their number grows, compared with theory.

    python benchmarks/scaling.py

Read from the compiled program on virtual CPU devices, so there are no times. Strong
scaling keeps the batch of a step, weak scaling the examples of a device. The theory,
with P bytes of parameters on n devices that exchange them in a ring, is what each
device sends: for `data` 2 P (n - 1) / n, an all-reduce of the gradients; for `fsdp`
P (n - 1) / n for gathering the parameters, which the backward pass reads again, and as
much for a reduce-scatter of the gradients.
"""

import argparse
import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

from configuration import composed

from runner.job.build import build
from runner.job.session import Session
from runner.job.sharding import Crossing, crossings, placed

DEVICES = (1, 2, 4, 8)
MODEL = "model.hidden_sizes=[512,512]"
WEAK_BATCH = 64  # examples of a device


def measure(mesh: str, count: int, batch: int) -> tuple[int, int, list[Crossing]]:
    """The bytes of the parameters, those of a device's state, and what crosses."""
    size = f"mesh.{mesh}={count}"
    overrides = ["verify=false", MODEL, f"mesh={mesh}", size]
    session = Session()
    run = build(composed(*overrides, f"data.batch_size={batch}"), session).run
    parts = placed(run)
    parameters = sum(array.bytes for array in parts["params"])
    held = sum(array.device_bytes for arrays in parts.values() for array in arrays)
    crossed = crossings(session.program(run.spec, run.values, run.timetable))
    return parameters, held, [c for c in crossed if c.when == "each step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.parse_args()
    heads = ("all-gather", "all-reduce", "sent", "theory", "ratio", "state")
    print("KiB a step; sent, theory and state are of each device")
    print(f"{'':24}" + "".join(f"{head:>12}" for head in heads))
    for mesh in ("data", "fsdp"):
        for scaling in ("strong", "weak"):
            for count in DEVICES:
                batch = 512 if scaling == "strong" else WEAK_BATCH * count
                print_row(f"{mesh} {scaling} {count}", mesh, count, batch)


def print_row(name: str, mesh: str, count: int, batch: int) -> None:
    parameters, held, crossed = measure(mesh, count, batch)
    kinds = [
        sum(c.bytes for c in crossed if c.kind == kind)
        for kind in ("all-gather", "all-reduce")
    ]
    sent = sum(c.wire_bytes for c in crossed)
    theory = 2 * parameters * (count - 1) / count
    ratio = f"{sent / theory:12.3f}" if theory else f"{'-':>12}"
    numbers = [f"{x / 1024:12.1f}" for x in (*kinds, sent, theory)]
    print(f"{name:24}{''.join(numbers)}{ratio}{held / 1024:12.1f}", flush=True)


if __name__ == "__main__":
    main()
