"""What a program is made from, and what it can tell before it is compiled."""

import hashlib
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from runner.core import feed
from runner.core.mesh import Mesh
from runner.core.pipeline import Pipeline
from runner.core.step import Values
from runner.data.dataset import Dataset
from runner.errors import ConfigError
from runner.record.program_cache import Entry
from runner.tasks.losses import Loss


class Static(NamedTuple):
    """Everything that a program is made from and that is not an argument of it.

    Attributes:
      description: plain values that tell programs apart; runs in which it is equal
        share one. `key` is its hash.
      init, train_step, eval_step: those of `runner.core.step`, jitted, so that whoever
        traces one first does so for all.
      steps_per_call: None leaves it to the rule of `loops`.
      entry: what an earlier process has kept of its checks, or this one will.
    """

    description: dict[str, Any]
    pipeline: Pipeline
    init: Any
    train_step: Any
    eval_step: Any
    loss: Loss
    dataset: Dataset
    mesh: Mesh
    averaging: bool
    microbatches: int
    steps_per_call: int | None
    entry: Entry

    @property
    def key(self) -> str:
        return key_of(self.description)


def key_of(description: dict[str, Any]) -> str:
    """Names the program that `description` tells from others."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def step_jaxpr(static: Static, values: Values) -> Jaxpr:
    """A training step, for the rules of `runner.core.choose`."""
    carry, example = carry_shapes(static, values), feed.example(static.dataset)
    traced = static.train_step.trace(*_step_arguments(carry, example, values))
    return traced.jaxpr.jaxpr


def check_traces(static: Static, values: Values) -> list[str]:
    """Trace a step and an evaluation, so that what can't run says so in no time.

    Returns:
      the names of the metrics that the run will have.
    """
    carry = carry_shapes(static, values)
    example = feed.example(static.dataset)
    mask = jax.ShapeDtypeStruct((static.dataset.batch_size,), jnp.float32)
    masked = example | {"mask": mask}
    outputs = jax.eval_shape(static.pipeline.predict, carry.state, masked)
    wanted = (static.dataset.batch_size, static.loss.output_size(static.dataset))
    if outputs.shape != wanted:
        raise ConfigError(
            f"the model's outputs have shape {outputs.shape}, but the loss needs "
            f"{wanted} for data={static.dataset.name}; another model or loss fits"
        )
    arguments = _step_arguments(carry, example, values)
    _, row = static.train_step.trace(*arguments).out_info
    evaluation = jax.eval_shape(static.eval_step, carry, masked)
    means = [f"eval/{name}" for name in evaluation if name != "count"]
    return [*row, *means, "time/steps_per_second"]


def carry_shapes(static: Static, values: Values) -> Any:
    """Of what a step hands to the next, wherever it lies."""
    traced = static.init.trace(*init_arguments(values))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), traced.out_info
    )


def init_arguments(values: Values) -> tuple:
    """Of `Static.init`, for their shapes and types."""
    return values.key, np.float32(0), values.hyperparameters


def _step_arguments(carry: Any, batch: Any, values: Values) -> tuple:
    rate, logged, eval_loss = np.float32(0), np.bool_(False), np.float32(0)
    return carry, batch, np.int32(0), rate, logged, eval_loss, values
