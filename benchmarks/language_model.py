"""Tokens a second of nanoGPT's smallest run, with W&B and rows, against loops by hand.

    python benchmarks/language_model.py TEXT --torch VENV/bin/python

The settings of conf/experiment/nanogpt/shakespeare_cpu.yaml on the text file TEXT, in
turn: the runner; its model of nnx in a loop by hand, `nnx.jit`, one call a step, with
nothing written; and with --torch, a Python that has torch, nanoGPT's own model in
PyTorch (language_model_torch.py). Each trains for the same steps after its first one.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from configuration import SESSION, composed, nnx_module
from flax import nnx
from step import runner_loop
from timing import in_turn, load, median_ratio

from runner.job.build import build

BATCH, BLOCK = 12, 64
TORCH = Path(__file__).with_name("language_model_torch.py")


def runner(text: Path, steps: int, folder: Path) -> tuple[Callable, nnx.Module]:
    """The runner's loop, and its model, untrained."""
    cfg = composed(
        "experiment=nanogpt/shakespeare_cpu", f"data.path={text.absolute()}",
        f"data.data_dir={folder / 'data'}", f"train.steps={steps}",
        f"schedule.warmup_steps={min(steps // 2, 100)}", "mesh=single",
        f"train.eval_every_steps={steps}", "data.validation=0.001", "verify=false",
    )  # fmt: skip
    run = build(cfg, SESSION).run
    return runner_loop(run, folder), nnx_module(cfg, run)


def by_hand(model: nnx.Module, text: Path, steps: int) -> Callable[[], float]:
    found = np.frombuffer(text.read_bytes(), np.uint8)
    tokens = jnp.asarray(np.unique(found, return_inverse=True)[1].astype(np.int32))
    rate = optax.warmup_cosine_decay_schedule(0, 1e-3, 100, 2000, 1e-4)
    decayed = partial(jax.tree.map, lambda x: x.ndim > 1)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b2=0.99, weight_decay=0.1, mask=decayed),
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, key):
        first = jax.random.randint(key, (BATCH, 1), 0, len(tokens) - BLOCK)
        windows = tokens[first + jnp.arange(BLOCK + 1)]

        def loss(model):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                model(windows[:, :-1]), windows[:, 1:]
            )
            return losses.mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    keys = jax.random.split(jax.random.key(0), steps)

    def loop():
        started = time.perf_counter()
        for key in keys:
            value = step(model, optimizer, key)
        jax.block_until_ready((value, nnx.state(model)))
        return time.perf_counter() - started

    return loop


def torch(python: str, text: Path, steps: int) -> float:
    """The seconds of a process's steps after its first."""
    command = [python, TORCH, text, str(steps)]
    return float(subprocess.check_output(command, text=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has it")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("command  python", *sys.argv, f"\n{load()}")
    with tempfile.TemporaryDirectory() as folder:
        ours, model = runner(args.text, args.steps, Path(folder))
        ways = {
            "runner": ours,
            "nnx.jit by hand": by_hand(model, args.text, args.steps),
        }
        if args.torch:
            ways["PyTorch"] = partial(torch, args.torch, args.text, args.steps)
        seconds = in_turn(ways, args.repeats)
    print(f"\n{'':<18}ms/step  tokens/s  speed of runner against it")
    for name, times in seconds.items():
        each = statistics.median(times) / args.steps
        ratio = median_ratio(times, seconds["runner"])
        print(f"{name:<18}{each * 1e3:7.1f}{BATCH * BLOCK / each:10.0f}{ratio:9.2f}")
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
