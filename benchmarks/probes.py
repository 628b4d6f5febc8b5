"""The cost of probes: those that come with runner, at a row every 100 steps.

    python benchmarks/probes.py --repeats 5

The training time of one process with probes, and without them, in turn. The digits MLP
is the hard case: its step takes a tenth of a millisecond.
"""

import argparse
import statistics
import sys

from configuration import SESSION, composed
from recording import unrecorded
from timing import load

from runner.job.build import build

STEPS = 10_000
PROBES = {
    "none": (),
    "norm_by_layer": ("+probe@probes.a=norm_by_layer",),
    "update_to_weight": ("+probe@probes.a=update_to_weight",),
    "histogram": ("+probe@probes.a=histogram",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    print("command  python", *sys.argv, f"\n{load()}")
    ways = {}
    for name, probes in PROBES.items():
        length = "train.epochs=null", f"train.steps={args.steps}"
        every = "train.log_every_steps=100", f"train.eval_every_steps={args.steps}"
        run = build(composed(*length, *every, *probes), SESSION).run
        ways[name] = unrecorded(run)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for loop in ways.values():
        loop()
    for _ in range(args.repeats):
        for name, loop in ways.items():
            seconds[name].append(loop())
    print(f"\n{args.steps} steps\n{'':<20}us/step   against none")
    for name, times in seconds.items():
        pairs = zip(times, seconds["none"], strict=True)
        ratio = statistics.median(ours / none for ours, none in pairs)
        print(f"{name:<20}{min(times) / args.steps * 1e6:7.0f}{ratio:10.3f}")
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
