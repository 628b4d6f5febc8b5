"""A variational autoencoder (Kingma and Welling, 2014): three outputs, two losses."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from runner.models.model import Model
from runner.tasks.metric import average
from runner.tasks.task import Task, columns, feature


class Vae(nnx.Module):
    def __init__(self, size, width, latent_size, rngs):
        self.encoder = nnx.Linear(size, width, rngs=rngs)
        self.mean = nnx.Linear(width, latent_size, rngs=rngs)
        self.log_variance = nnx.Linear(width, latent_size, rngs=rngs)
        self.decoder = nnx.Linear(latent_size, size, rngs=rngs)
        self.noise = nnx.Dropout(0.0, rngs=rngs)  # its `deterministic` says which mode
        self.rngs = rngs

    def __call__(self, x):
        hidden = nnx.relu(self.encoder(x.reshape(len(x), -1)))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean
        if not self.noise.deterministic:
            white = jax.random.normal(self.rngs(), mean.shape)
            z = mean + jnp.exp(log_variance / 2) * white
        return self.decoder(z), mean, log_variance


def vae(*, inputs, width, latent_size):
    """A model with outputs (reconstruction, mean, log variance) of each example."""
    size = math.prod(inputs.shape)
    return Model(nnx=lambda rngs: Vae(size, width, latent_size, rngs))


def evidence_bound(*, features, inputs, beta):
    """A task: squared error plus `beta` times the divergence from the prior."""
    feature("inputs", inputs, features)

    def squared_error(outputs, batch):
        target = batch[inputs].reshape(outputs[0].shape)
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
