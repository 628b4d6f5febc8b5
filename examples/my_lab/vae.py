"""A variational autoencoder (Kingma and Welling, 2014): three outputs, two losses."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from runner.models.model import Model
from runner.tasks.metric import average
from runner.tasks.task import Task, columns


def white_noise(*, column, size):
    """A transform: normal numbers [size] for each example; zeros in evaluation.

    Numbers of a batch, unlike those that a model draws, are the same in each framework
    and in any number of microbatches.
    """

    def transform(batch, key, train):
        shape = len(next(iter(batch.values()))), size
        white = jax.random.normal(key, shape) if train else jnp.zeros(shape)
        return batch | {column: white}

    return transform


class Vae(nnx.Module):
    def __init__(self, sizes, width, rngs):
        (self.image, size), (self.noise, latent_size) = sizes
        self.encoder = nnx.Linear(size, width, rngs=rngs)
        self.mean = nnx.Linear(width, latent_size, rngs=rngs)
        self.log_variance = nnx.Linear(width, latent_size, rngs=rngs)
        self.decoder = nnx.Linear(latent_size, size, rngs=rngs)

    def __call__(self, x):
        image, white = x[self.image], x[self.noise]
        hidden = nnx.relu(self.encoder(image.reshape(len(image), -1)))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + jnp.exp(log_variance / 2) * white
        return self.decoder(z), mean, log_variance


def vae(*, inputs, width):
    """A model of an image and noise, as long as the code: see `white_noise`.

    Its outputs are (reconstruction, mean, log variance) of each example.
    """
    sizes = [(name, math.prod(x.shape)) for name, x in inputs.items()]
    return Model(nnx=lambda rngs: Vae(sizes, width, rngs))


def evidence_bound(*, features, inputs, beta):
    """A task: squared error plus `beta` times the divergence from the prior."""
    image, _ = inputs

    def squared_error(outputs, batch):
        target = batch[image].reshape(outputs[0].shape)
        return jnp.square(outputs[0] - target).sum(axis=-1)

    def divergence(outputs, batch):
        _, mean, log_variance = outputs
        terms = jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1
        return 0.5 * terms.sum(axis=-1)

    def loss(outputs, batch):
        return squared_error(outputs, batch) + beta * divergence(outputs, batch), 1.0

    return Task(
        columns(inputs, features),
        output=None,
        loss=loss,
        metrics={
            "squared_error": average(squared_error, "min"),
            "divergence": average(divergence, None),
        },
    )
