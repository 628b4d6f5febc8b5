"""Training speed compared with loops by hand: same model, batches and optimizer.

    python benchmarks/step.py --steps 20000 --cnn-steps 200 --repeats 5
    python benchmarks/step.py --augment --steps 1000 --cnn-steps 50 --repeats 15

Loops take turns, so that other load on the machine affects all of them. A ratio is the
speed of the runner's slowest framework over that of the other loop (in the rows of the
runner: that framework's over the fastest one's), from the median seconds and as the
median of each round's ratio. Start-up and compilation are left out; the runner's time
includes its W&B run and its files, while the others log nothing. With --augment, the
runner with random crops and flips of its batches takes turns with the runner without.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from omegaconf import OmegaConf, open_dict

from runner.config import conf
from runner.core.run import Host, Run
from runner.data.dataset import Dataset, MemorySplit
from runner.data.transforms import flip, pad_and_crop, scale, transformed
from runner.job.build import build
from runner.job.session import Session
from runner.models import cnn, mlp
from runner.record.mirrors.wandb import WandbFields
from runner.record.recorder import Recorder

FRAMEWORKS = ("jax", "linen", "nnx")
MODELS = ("mlp", "cnn")
CLASSES = 10


SESSION = Session()


def images(batch_size: int, augment: bool = False) -> Dataset:
    """Random 28x28 images and labels."""
    augmented = [pad_and_crop(column="input", padding=2), flip(column="input")]
    rng = np.random.default_rng(0)

    def split(size):
        pixels = rng.integers(0, 256, (size, 28, 28, 1), np.uint8)
        labels = rng.integers(0, CLASSES, size, np.int32)
        return MemorySplit({"input": pixels, "label": labels})

    return Dataset(
        name="images",
        splits={"train": split(4096), "validation": split(64)},
        classes={"label": CLASSES},
        batch_size=batch_size,
        mode="device",
        transforms=[
            *(augmented if augment else []),
            scale(column="input", subtract=127.5, divide=127.5),
        ],
    )


def make_run(
    framework: str,
    model: str,
    steps: int,
    log_every_steps: int = 100,
    augment: bool | None = None,
) -> Run:
    """The MLP on digits and the CNN on images; both on images if `augment` is given."""
    batch_size = 64 if augment is None else 128
    overrides = [
        f"framework={framework}",
        f"model={model}",
        f"train.steps={steps}",
        "train.epochs=null",
        f"train.log_every_steps={log_every_steps}",
        f"train.eval_every_steps={steps}",
        f"data.batch_size={batch_size}",
    ]
    with hydra.initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        cfg = hydra.compose("config", overrides)
    if model == "cnn" or augment is not None:
        with open_dict(cfg):
            target = f"{images.__module__}.{images.__name__}"
            given = {"batch_size": batch_size, "augment": bool(augment)}
            cfg.data = OmegaConf.create({"_target_": target, **given})
    return build(cfg, SESSION).run


def runner_loop(run: Run, folder: Path, wandb: str = "offline") -> Callable[[], float]:
    """Do what `python -m runner` does after `build`; times the training in it."""
    numbers = iter(range(10**6))

    def loop():
        recorder = Recorder(
            folder / str(next(numbers)),
            config=run.config,
            provenance={},
            directions={"loss": "min"},
            wandb=WandbFields(wandb, dir=folder),
            total_steps=len(run.learning_rates),
            quiet=True,
        )
        with recorder:
            started = time.perf_counter()
            SESSION.train(run, Host(lambda index, row: recorder.row(row)))
            return time.perf_counter() - started

    return loop


def arrays(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transformed inputs, labels, and the rows of each step [steps, batch_size]."""
    split = run.spec.dataset.train
    assert isinstance(split, MemorySplit)
    transforms = run.spec.dataset.transforms
    inputs = np.asarray(transformed(transforms, split.columns, None)["input"])
    rows = run.order.indices(0, len(run.learning_rates))
    return inputs, split.columns["label"], rows


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def scan_loop(run: Run) -> Callable[[], float]:
    """The MLP by hand: 1000 steps in a `lax.scan`, everything on the device."""
    inputs, labels, rows = map(jnp.asarray, arrays(run))
    inputs = inputs.reshape(len(inputs), -1)
    chunks = [rows[i : i + 1000] for i in range(0, len(rows), 1000)]
    tx = optax.adam(float(run.learning_rates[0]))

    def loss_fn(params, x, y):
        for name in ("dense_0", "dense_1"):
            x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
        logits = x @ params["output"]["kernel"] + params["output"]["bias"]
        return cross_entropy(logits, y)

    def step(carry, rows):
        params, state = carry
        grads = jax.grad(loss_fn)(params, inputs[rows], labels[rows])
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    chunk = jax.jit(lambda carry, rows: jax.lax.scan(step, carry, rows)[0])
    start = initial(run)
    carry = start, tx.init(start)

    def loop():
        done = carry
        started = time.perf_counter()
        for rows in chunks:
            done = chunk(done, rows)
        jax.block_until_ready(done)
        return time.perf_counter() - started

    return loop


def initial(run: Run):
    init = run.spec.pipeline.init
    return init(run.init_key, run.learning_rates[0], run.values.hyperparameters).params


def nnx_loop(run: Run, steps: int) -> Callable[[], float]:
    """The MLP as in flax's tutorial: `nnx.jit`, one call per step, NumPy batches."""
    inputs, labels, rows = arrays(run)
    model = mlp.Nnx(
        inputs[0].size, (128, 64, CLASSES), jax.nn.relu, 0.0, "float32", nnx.Rngs(0)
    )
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        def loss_fn(model):
            return cross_entropy(model(batch["image"]), batch["label"])

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    def loop():
        started = time.perf_counter()
        for i in range(steps):
            batch = {"image": inputs[rows[i]], "label": labels[rows[i]]}
            loss = step(model, optimizer, batch)
        jax.block_until_ready((loss, nnx.state(model)))
        return (time.perf_counter() - started) * len(rows) / steps

    return loop


def cnn_loop(run: Run) -> Callable[[], float]:
    """The CNN by hand in linen: one call of a jitted step, data on the device."""
    inputs, labels, rows = arrays(run)
    model = cnn.Linen((32, 64), 3, 128, CLASSES, jax.nn.relu, 0.0, 0.9, "float32")
    tx = optax.adam(float(run.learning_rates[0]))
    data = jax.device_put((inputs, labels))

    def step(carry, data, rows):
        params, stats, state = carry
        x, y = data[0][rows], data[1][rows]

        def loss_fn(params):
            variables = {"params": params, "batch_stats": stats}
            logits, new = model.apply(variables, x, True, mutable=["batch_stats"])
            return cross_entropy(logits, y), new["batch_stats"]

        grads, stats = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), stats, state

    step = jax.jit(step, donate_argnums=0)

    def loop():
        start = model.init(jax.random.key(0), inputs[:64], False)
        carry = start["params"], start["batch_stats"], tx.init(start["params"])
        jax.block_until_ready(carry)
        started = time.perf_counter()
        for row in rows:
            carry = step(carry, data, row)
        jax.block_until_ready(carry)
        return time.perf_counter() - started

    return loop


def compare(title: str, loops: dict[str, Callable], steps: int, repeats: int) -> None:
    """Time the loops in turn and print the runner's speed relative to each."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():  # compiles, and starts W&B's process
        loop()
    for _ in range(repeats):
        for name, loop in loops.items():
            seconds[name].append(loop())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = sorted((n for n in loops if n.startswith("runner")), key=medians.get)
    print(f"\n{title}: {steps} steps\n{'':<32}us/step  ratio  by round")
    for name in loops:
        # Ours beside the fastest of ours, the others beside the slowest of ours.
        above, below = (ours[0], name) if name in ours else (name, ours[-1])
        ratio = medians[above] / medians[below]
        pairs = zip(seconds[above], seconds[below], strict=True)
        by_round = statistics.median(a / b for a, b in pairs)
        micros = medians[name] / steps * 1e6
        print(f"{name:<32}{micros:7.0f}{ratio:7.2f}{by_round:10.2f}")


def load() -> str:
    return "load     " + " ".join(f"{average:.2f}" for average in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--steps", type=int, default=20_000, help="of the MLP")
    parser.add_argument("--cnn-steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--augment", action="store_true")
    args = parser.parse_args()
    conf.register()
    print("command  python", *sys.argv)
    print(f"machine  {platform.machine()}, {os.cpu_count()} CPUs, {jax.devices()[0]}")
    print(load())
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            steps = args.steps if model == "mlp" else args.cnn_steps
            if args.augment:
                loops = {}
                for name, augment in (("plain", False), ("augmented", True)):
                    run = make_run("jax", model, steps, augment=augment)
                    path = Path(folder) / f"{model}-{name}"
                    loops[f"runner, {name}"] = runner_loop(run, path, "disabled")
                compare(f"{model} on 28x28 images", loops, steps, args.repeats)
                continue
            runs = {f: make_run(f, model, steps) for f in FRAMEWORKS}
            if model == "mlp":
                title = "MLP on digits"
                loops = {
                    "nnx.jit, one call a step": nnx_loop(runs["jax"], min(steps, 1000)),
                    "lax.scan by hand": scan_loop(runs["jax"]),
                }
            else:
                title = "CNN on 28x28 images"
                loops = {"jit by hand, one call a step": cnn_loop(runs["jax"])}
            for framework, run in runs.items():
                path = Path(folder) / f"{model}-{framework}"
                loops[f"runner, {framework}"] = runner_loop(run, path)
            compare(title, loops, steps, args.repeats)
    print(f"\n{load()}")


if __name__ == "__main__":
    main()
