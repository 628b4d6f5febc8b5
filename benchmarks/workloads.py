"""What benchmarks train: a name, its configuration, its loss by hand and its length."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from by_hand import Loss, classification, next_token
from configuration import SESSION, composed, nnx_module
from step import CLASSES, IMAGES

from runner.config import conf
from runner.core.run import Run
from runner.job.build import build
from runner.models import model as layers
from runner.models.model import Model

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))


class Workload(NamedTuple):
    """One of what is trained.

    Attributes:
      overrides: of the configuration.
      small: more of them, for a run that only shows that all of it works.
      steps: that take about a second on an accelerator, on CPU, and when small.
      loss: the same by hand.
      batch_size: of random images; None for the data that the overrides name.
      convolves: whether the model has convolutions.
    """

    overrides: tuple[str, ...]
    small: tuple[str, ...]
    steps: tuple[int, int, int]
    loss: Loss = classification
    batch_size: int | None = None
    convolves: bool = False


WORKLOADS = {
    "mlp": Workload((), ("model.hidden_sizes=[16,8]",), (20_000, 10_000, 100)),
    "cnn": Workload(
        ("model=cnn",), ("model.channels=[2,4]", "model.hidden_size=8"),
        (3000, 30, 4), batch_size=64, convolves=True,
    ),
    "2c2d": Workload(
        ("model._target_=workloads.two_conv_two_dense", "~model.hidden_sizes",
         "~model.activation", "~model.dropout", "+model.channels=[32,64]",
         "+model.hidden_size=1024"),
        ("model.channels=[2,4]", "model.hidden_size=8"),
        (1500, 8, 2), batch_size=128, convolves=True,
    ),
    # 0.99 million parameters
    "transformer": Workload(
        ("data=counting", "data.length=64", "data.num_validation=64",
         "task.mask=counts", "model=transformer", "model.width=128", "model.heads=4",
         "model.layers=5"),
        ("data.length=8", "model.width=16", "model.layers=1"),
        (1500, 8, 4), loss=next_token,
    ),
}  # fmt: skip


def built(
    name: str, framework: str, steps: int, small: bool, more: Sequence[str] = ()
) -> tuple[Run, Callable[[], Any]]:
    """The run of a workload, and what makes its module of nnx.

    Args:
      name: of the workload.
      framework: that it is trained in.
      steps: its length; it is evaluated once, at the end.
      small: whether it is a small one.
      more: overrides.
    """
    workload = WORKLOADS[name]
    length = [f"train.steps={steps}", "train.epochs=null"]
    rows = [f"train.eval_every_steps={steps}", "train.log_every_steps=100"]
    given = [*workload.overrides, *(workload.small if small else ()), *more]
    own = conf.search_path(EXAMPLES / "my_lab" / "conf")
    if workload.batch_size is not None:
        batch_size = 8 if small else workload.batch_size
        given += [*IMAGES, f"data.batch_size={batch_size}"]
    always = [f"framework={framework}", "verify=false", "mesh=single"]
    cfg = composed(*always, *length, *rows, *own, *given)
    run = build(cfg, SESSION).run
    return run, partial(nnx_module, cfg, run)


def two_conv_two_dense(
    *, inputs, output, dtype: str, channels: Sequence[int], hidden_size: int
) -> Model:
    """DeepOBS' 2c2d, in pure JAX: https://arxiv.org/abs/1903.05499"""
    height, width, features = inputs.shape
    widths = (features, *channels)
    sizes = (height // 4 * (width // 4) * channels[1], hidden_size, CLASSES)

    def normal(key, shape):
        values = 0.05 * jax.random.truncated_normal(key, -2, 2, shape)
        return {"kernel": values, "bias": jnp.full(shape[-1], 0.05)}

    def init(key):
        keys = jax.random.split(key, 4)
        convs = [normal(keys[i], (5, 5, widths[i], widths[i + 1])) for i in (0, 1)]
        denses = [normal(keys[2 + i], sizes[i : i + 2]) for i in (0, 1)]
        names = ("conv_0", "conv_1", "dense", "output")
        return dict(zip(names, convs + denses, strict=True)), {}

    def forward(params, model_state, x, key, train):
        for name in ("conv_0", "conv_1"):
            kernel, bias = (params[name][k].astype(dtype) for k in ("kernel", "bias"))
            x = jax.lax.conv_general_dilated(
                x.astype(dtype), kernel, (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            x, window = jax.nn.relu(x + bias), (1, 2, 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "SAME")
        x = jax.nn.relu(layers.dense(params["dense"], x.reshape(len(x), -1), dtype))
        return layers.dense(params["output"], x, dtype), model_state

    return Model(init=init, jax=forward)
