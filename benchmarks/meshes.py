"""How far each mesh drifts from one device, for every optimizer and for the cnn.

    python benchmarks/meshes.py

The largest relative difference of the losses of a few steps, on 8 virtual CPU devices.
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import numpy as np
from hydra import compose, initialize_config_dir

from runner import config
from runner.build import build
from runner.train import train

MESHES = ("data", "fsdp", "data_fsdp")
MLP = ("model.hidden_sizes=[16]", "mesh.min_shard_elements=64")
CNN = ("model=cnn", "mesh.min_shard_elements=64")


def losses(steps: int, *overrides: str) -> np.ndarray:
    """Of each step, and of the evaluation after the last."""
    length = ("train.epochs=null", f"train.steps={steps}", "train.log_every_steps=1")
    cfg = compose("config", ["verify=false", *length, *overrides])
    rows: list[dict] = []
    train(build(cfg), rows.append)
    return np.array([row["train/loss"] for row in rows] + [rows[-1]["eval/loss"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--optimizers", nargs="*", help="all of them by default")
    args = parser.parse_args()
    config.register()
    found = sorted(path.stem for path in (config.conf_dir() / "optimizer").glob("*.*"))
    names = args.optimizers or found
    cases = [(f"optimizer={name}", *MLP) for name in names]
    cases += [(f"framework={f}", *CNN) for f in ("jax", "linen", "nnx")]
    print(f"{'':32}" + "".join(f"{mesh:>12}" for mesh in MESHES))
    past = []
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        for case in cases:
            name = "cnn " * ("model=cnn" in case) + case[0]
            one = losses(args.steps, *case, "mesh=single")
            off = []
            for mesh in MESHES:
                on_mesh = losses(args.steps, *case, f"mesh={mesh}")
                off.append(float(np.max(np.abs(on_mesh - one) / np.abs(one))))
            print(f"{name:32}" + "".join(f"{x:12.1e}" for x in off), flush=True)
            if not max(off) <= args.tolerance:
                past.append(name)
    print(f"past {args.tolerance:g}: {', '.join(past) or 'none'}")
    sys.exit(bool(past))


if __name__ == "__main__":
    main()
