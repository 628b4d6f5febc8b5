"""Two linear layers without bias: the model of flax #4087."""

import functools

import jax
from flax import linen, nnx

from runner.data.dataset import Feature
from runner.models.model import Model, check_sizes, input_size, lecun_normal


class Linen(linen.Module):
    latent_size: int
    output_size: int
    dtype: str

    @linen.compact
    def __call__(self, x, train: bool):
        x_BxD = x.reshape(len(x), -1)
        dense = functools.partial(linen.Dense, use_bias=False, dtype=self.dtype)
        z_BxL = dense(self.latent_size, name="encoder")(x_BxD)
        return dense(self.output_size, name="decoder")(z_BxL)


class Nnx(nnx.Module):
    def __init__(self, input_size: int, latent_size: int, dtype: str, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, use_bias=False, dtype=dtype, rngs=rngs)
        self.encoder = linear(input_size, latent_size)
        self.decoder = linear(latent_size, input_size)

    def __call__(self, x):
        return self.decoder(self.encoder(x.reshape(len(x), -1)))


def linear_autoencoder(*, inputs: Feature, dtype: str, latent_size: int) -> Model:
    """Linear autoencoder: inputs [B, ...] -> outputs [B, size of one input].

    Args:
      inputs: the feature that the model gets; it is flattened.
      dtype: what layers compute in; parameters are float32.
      latent_size: width of the code.
    """
    size = input_size("linear_autoencoder", inputs)
    check_sizes(latent_size=latent_size)

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        return {
            "encoder": {"kernel": lecun_normal(encoder_key, (size, latent_size))},
            "decoder": {"kernel": lecun_normal(decoder_key, (latent_size, size))},
        }, {}

    def forward(params, model_state, x, key, train):
        encoder, decoder = (
            params[name]["kernel"].astype(dtype) for name in ("encoder", "decoder")
        )
        z_BxL = x.reshape(len(x), -1).astype(dtype) @ encoder
        return z_BxL @ decoder, model_state

    return Model(
        init=init,
        jax=forward,
        linen=lambda: Linen(latent_size, size, dtype),
        nnx=lambda rngs: Nnx(size, latent_size, dtype, rngs),
    )
