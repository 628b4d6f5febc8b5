"""The loss for reconstructing the inputs."""

import math

import jax.numpy as jnp

from runner.data.dataset import Dataset
from runner.tasks.loss import Loss


def reconstruction() -> Loss:
    """Mean squared error between the outputs and the flattened inputs."""

    def output_size(dataset: Dataset) -> int:
        return math.prod(dataset.input_shape)

    def per_example(outputs_BxD, batch):
        targets_BxD = batch["input"].reshape(outputs_BxD.shape)
        return {"loss": jnp.mean((outputs_BxD - targets_BxD) ** 2, axis=-1)}

    return Loss(output_size, per_example)
