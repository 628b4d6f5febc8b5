"""Two linear layers without bias: the model of flax #4087."""

import math

import jax
from flax import linen, nnx

from runner.models.model import Model, check_sizes

_init = jax.nn.initializers.lecun_normal()


class Linen(linen.Module):
    latent_size: int
    output_size: int

    @linen.compact
    def __call__(self, x, train: bool):
        x_BxD = x.reshape(len(x), -1)
        z_BxL = linen.Dense(self.latent_size, use_bias=False, name="encoder")(x_BxD)
        return linen.Dense(self.output_size, use_bias=False, name="decoder")(z_BxL)


class Nnx(nnx.Module):
    def __init__(self, input_size: int, latent_size: int, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(input_size, latent_size, use_bias=False, rngs=rngs)
        self.decoder = nnx.Linear(latent_size, input_size, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.decoder(self.encoder(x.reshape(len(x), -1)))


def linear_autoencoder(*, input_shape: tuple[int, ...], latent_size: int) -> Model:
    """Linear autoencoder: inputs [B, ...] -> outputs [B, size of one input].

    Args:
      input_shape: that of one example.
      latent_size: width of the code.
    """
    size = math.prod(input_shape)
    check_sizes(latent_size=latent_size)

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        return {
            "encoder": {"kernel": _init(encoder_key, (size, latent_size))},
            "decoder": {"kernel": _init(decoder_key, (latent_size, size))},
        }, {}

    def forward(params, model_state, x, key, train):
        z_BxL = x.reshape(len(x), -1) @ params["encoder"]["kernel"]
        return z_BxL @ params["decoder"]["kernel"], model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(latent_size, size),
        nnx=lambda rngs: Nnx(size, latent_size, rngs),
    )
