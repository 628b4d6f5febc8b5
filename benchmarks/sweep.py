"""A sweep of a hundred jobs: packed, as peers run it, and written by hand.

    python benchmarks/sweep.py --repeats 3 --lightning VENV/bin/python
    python benchmarks/sweep.py --repeats 1 --jobs 1 10 100 1000

The digits MLP for 20 epochs, learning rate x seed, each job with its offline W&B run
and files; wall clock of whole commands, which take turns. The data set is prepared.

packed    `python -m runner -m ...`, with nothing compiled beforehand
warm      the same with its programs in the cache, as on any day but the first
peers     Hydra's basic launcher, where each job compiles its own program, without this
          project's checks; eight jobs spread over the grid, scaled
lightning a multirun of Hydra with Lightning and W&B (lightning_sweep.py), eight jobs
          scaled; with --lightning, a Python that has lightning, hydra-core and wandb
by hand   a program that vmaps the same jobs and logs nothing
"""

import argparse
import gzip
import itertools
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path

from timing import in_turn, load, median_ratio

EPOCHS, BATCH, EXAMPLES = 20, 64, 1437
# learning rates and seeds by the number of jobs
GRIDS = {1: (1, 1), 10: (5, 2), 100: (10, 10), 1000: (10, 100)}
PEERS = 8  # jobs of others that are run; the time of all is scaled from theirs


def grid(jobs: int) -> tuple[list[float], list[int]]:
    rates, seeds = GRIDS[jobs]
    return [1e-4 * 1.8**i for i in range(rates)], list(range(seeds))


def overrides(jobs: int) -> list[str]:
    rates, seeds = grid(jobs)
    return [
        f"optimizer.learning_rate={','.join(f'{rate:.6f}' for rate in rates)}",
        f"seed={','.join(map(str, seeds))}",
        f"train.epochs={EPOCHS}",
        "framework=jax",
    ]


def packed(jobs: int, folder: Path, *more: str) -> float:
    command = [sys.executable, "-m", "runner", "-m", *overrides(jobs)]
    command += [f"compilation_cache={folder}/xla", f"hydra.sweep.dir={folder}/sweep"]
    return wall(command + list(more))


def peers(jobs: int, folder: Path) -> float:
    """The seconds of PEERS jobs without start-up, scaled, plus the start-up once."""
    every = list(itertools.product(*grid(jobs)))
    some = every[:: max(len(every) // PEERS, 1)][:PEERS]
    started = wall([sys.executable, "-m", "runner", "--cfg", "job"])
    seconds = 0.0
    for number, (rate, seed) in enumerate(some):
        seconds += wall(
            [sys.executable, __file__, "--one-by-peers", "-m",
             f"optimizer.learning_rate={rate:.6f}",
             f"seed={seed}", f"train.epochs={EPOCHS}", "framework=jax",
             "hydra/launcher=basic", "verify=false", "compilation_cache=null",
             f"hydra.sweep.dir={folder}/peers{number}"]
        )  # fmt: skip
    # In one process, imports are paid for once.
    imports = wall([sys.executable, "-c", "import runner.job.run, wandb"]) + started
    return imports + (seconds / len(some) - imports) * jobs


def lightning(python: str, jobs: int, folder: Path) -> float:
    """The seconds of PEERS jobs of one command, those after the first scaled.

    On one thread, which is fastest for a model as small as this.
    """
    script = str(Path(__file__).with_name("lightning_sweep.py"))
    data = str(resources.files("runner.data").joinpath("digits.csv.gz"))
    rates, seeds = grid(jobs)
    some, two = rates[:: len(rates) // 4][:4], seeds[: PEERS // 4]
    started = time.perf_counter()
    said = output(
        ["env", "OMP_NUM_THREADS=1", python, script, data, "-m",
         f"learning_rate={','.join(f'{rate:.6f}' for rate in some)}",
         f"seed={','.join(map(str, two))}", f"hydra.sweep.dir={folder}/lightning"]
    )  # fmt: skip
    whole = time.perf_counter() - started
    _, *others = map(float, re.findall("seconds of a job: (.*)", said))
    return whole + statistics.mean(others) * (jobs - 1 - len(others))


def one_by_peers() -> None:
    """One job without the probes and digests that peers don't have."""
    from runner import cli
    from runner.checks.trajectory import Trajectories
    from runner.checks.verify import Found
    from runner.job import build, prepared

    Trajectories.start = lambda *_: None
    build.verify = lambda *_: Found(None, "")
    prepared.identify = lambda *_: {"optimizer_probe": None, "in_training_too": {}}
    cli.main()


def by_hand(jobs: int) -> None:
    """The same jobs in one vmapped `lax.scan`, evaluated at the end."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    packed = resources.files("runner.data").joinpath("digits.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    table = table[np.random.default_rng(0).permutation(len(table))]
    inputs, labels = jnp.asarray(table[:, :64] / 16, jnp.float32), table[:, 64]
    labels = jnp.asarray(labels, jnp.int32)
    per_epoch = EXAMPLES // BATCH
    steps = EPOCHS * per_epoch
    every = list(itertools.product(*grid(jobs)))
    rates = jnp.asarray([[rate] * steps for rate, _ in every], jnp.float32)
    orders = {
        seed: np.concatenate(
            [
                np.random.default_rng([seed, epoch]).permutation(EXAMPLES)
                for epoch in range(EPOCHS)
            ]
        )
        .reshape(EPOCHS, -1)[:, : per_epoch * BATCH]
        .reshape(steps, BATCH)
        for seed in range(max(seed for _, seed in every) + 1)
    }
    rows = jnp.asarray(np.stack([orders[seed] for _, seed in every]))
    keys = jax.vmap(jax.random.key)(jnp.array([seed for _, seed in every]))
    sizes = (64, 128, 64, 10)

    def init(key):
        layers = zip(jax.random.split(key, 3), sizes, sizes[1:], strict=False)
        return [
            (jax.nn.initializers.lecun_normal()(k, (i, o)), jnp.zeros(o))
            for k, i, o in layers
        ]

    def loss_fn(params, x, y):
        for kernel, bias in params[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        logits = x @ params[-1][0] + params[-1][1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def job(key, rates, rows):
        params = init(key)

        def step(carry, now):
            params, state = carry
            rate, rows = now
            grads = jax.grad(loss_fn)(params, inputs[rows], labels[rows])
            tx = optax.adam(rate)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        state = optax.adam(0.0).init(params)
        (params, _), _ = jax.lax.scan(step, (params, state), (rates, rows))
        return loss_fn(params, inputs[EXAMPLES:], labels[EXAMPLES:])

    losses = np.asarray(jax.jit(jax.vmap(job))(keys, rates, rows))
    print(f"best evaluation loss {losses.min():.4f}")


def output(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def wall(command: list[str]) -> float:
    started = time.perf_counter()
    output(command)
    return time.perf_counter() - started


def hand(jobs: int, folder: Path) -> float:
    return wall([sys.executable, __file__, "--by-hand", str(jobs)])


def in_new_folder(way: Callable[[int, Path], float], jobs: int, folder: Path) -> float:
    """The seconds of `way` in a new folder in `folder`.

    The caller removes all of them at the end: ext4 doesn't use what was removed in the
    last minute again, and looks through it whenever a file is made.
    """
    return way(jobs, Path(tempfile.mkdtemp(dir=folder)))


def prepare(folder: Path) -> None:
    """Prepare the data set."""
    given = ("debug=tiny", "wandb=disabled", f"hydra.run.dir={folder}/tiny")
    wall([sys.executable, "-m", "runner", *given])


def compare(jobs: int, repeats: int, python: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)

        def warm(jobs: int, own: Path) -> float:
            return packed(jobs, own, f"compilation_cache={folder}/warm")

        ways = {"packed": packed, "warm": warm, "by hand": hand, "peers": peers}
        if python:
            ways["lightning"] = partial(lightning, python)
        in_new_folder(warm, jobs, folder)
        seconds = in_turn(
            {
                name: partial(in_new_folder, way, jobs, folder)
                for name, way in ways.items()
            },
            repeats,
            warm=False,
        )
    print(f"\n{jobs} jobs, {repeats} rounds; in times of packed and warm")
    for name, times in seconds.items():
        cold, kept = (median_ratio(times, seconds[o]) for o in ("packed", "warm"))
        median = statistics.median(times)
        print(f"{name:<10}{median:7.1f}{cold:10.2f}{kept:10.2f}")


def growth(numbers: list[int], repeats: int) -> None:
    print(f"\npacked, {repeats} rounds\njobs   seconds  peak MiB of a process so far")
    seconds: dict[int, list[float]] = {jobs: [] for jobs in numbers}
    with tempfile.TemporaryDirectory() as folder:
        for jobs in [*numbers] * repeats:
            seconds[jobs].append(in_new_folder(packed, jobs, Path(folder)))
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
            print(f"{jobs:<7}{seconds[jobs][-1]:7.1f}{peak:9}", flush=True)
    smallest = statistics.median(seconds[numbers[0]])
    for jobs in numbers[1:]:
        ratio = statistics.median(seconds[jobs]) / smallest
        print(f"{jobs} jobs take {ratio:.1f} times as long as {numbers[0]}")


def main() -> None:
    if sys.argv[1:2] == ["--one-by-peers"]:
        del sys.argv[1]
        return one_by_peers()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="+", choices=GRIDS, help="growth")
    parser.add_argument("--lightning", help="a Python that has it")
    parser.add_argument("--by-hand", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.by_hand:
        return by_hand(args.by_hand)
    print("command  python", *sys.argv)
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs")
    print(load())
    if args.jobs:
        growth(args.jobs, args.repeats)
    else:
        compare(100, args.repeats, args.lightning)
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
