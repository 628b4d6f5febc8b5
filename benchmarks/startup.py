"""Time to the first step, compared with bare imports and the same program by hand.

    python benchmarks/startup.py --repeats 5

From the start of the process to the end of the first call of the compiled program, with
a warm and with a cold compilation cache. By hand: import jax, flax, optax, hydra, and
compile (or load) one nnx training step of the default MLP in a loop of 256.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BY_HAND = """
import sys
import flax, hydra, jax, optax
import jax.numpy as jnp
from flax import nnx

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(64, 128, rngs=rngs)
        self.b = nnx.Linear(128, 64, rngs=rngs)
        self.c = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.c(jax.nn.relu(self.b(jax.nn.relu(self.a(x)))))

model = Mlp(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
graph, state = nnx.split((model, optimizer))
inputs, labels = jnp.ones((1437, 64)), jnp.zeros(1437, jnp.int32)

@jax.jit
def call(state, rows):
    def step(state, rows):
        model, optimizer = nnx.merge(graph, state)
        def loss_fn(model):
            logits = model(inputs[rows])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels[rows]).mean()
        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return nnx.state((model, optimizer)), loss
    return jax.lax.scan(step, state, rows)

jax.block_until_ready(call(state, jnp.zeros((256, 64), jnp.int32)))
print("first step", flush=True)
"""


def until(command: list[str], done) -> float:
    """Seconds until `done`, which is checked every two milliseconds."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while not done(process):
        if process.poll() not in (None, 0):
            sys.exit(f"{' '.join(command)} failed")
        time.sleep(0.002)
    seconds = time.perf_counter() - started
    process.wait()
    return seconds


def runner(cache: Path, *more: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        return until(
            [sys.executable, "-m", "runner", f"hydra.run.dir={folder}",
             f"compilation_cache={cache}", "train.epochs=1", *more],
            lambda _: metrics.exists() and metrics.stat().st_size > 0,
        )  # fmt: skip


def by_hand(cache: Path) -> float:
    return until(
        [sys.executable, "-c", BY_HAND, str(cache)],
        lambda process: bool(process.stdout.readline()),
    )


def imports(_: Path) -> float:
    return until(
        [
            sys.executable,
            "-c",
            "import flax.nnx, hydra, jax, optax; print(jax.devices())",
        ],
        lambda process: bool(process.stdout.readline()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    ways = {
        "by hand": by_hand,
        "imports alone": imports,
        "python -m runner": runner,
        "without verify": lambda cache: runner(cache, "verify=false"),
    }
    print("command  python", *sys.argv)
    print("load    ", *(f"{average:.2f}" for average in os.getloadavg()))
    for title, is_warm in (("warm cache", True), ("cold cache", False)):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        with tempfile.TemporaryDirectory() as shared:
            if is_warm:
                for way in ways.values():
                    way(Path(shared))
            for _ in range(args.repeats):
                for name, way in ways.items():
                    with tempfile.TemporaryDirectory() as empty:
                        cache = Path(shared if is_warm else empty)
                        seconds[name].append(way(cache))
        print(f"\n{title}\n{'':<18}seconds   against by hand")
        for name, times in seconds.items():
            pairs = zip(times, seconds["by hand"], strict=True)
            ratio = statistics.median(ours / hand for ours, hand in pairs)
            print(f"{name:<18}{statistics.median(times):7.2f}{ratio:10.2f}")


if __name__ == "__main__":
    main()
