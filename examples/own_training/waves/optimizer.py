"""The sign of an average of gradients, with decoupled weight decay."""

import optax


def momentum_sign(learning_rate, decay, weight_decay):
    """Any function that returns an optax gradient transformation."""
    return optax.chain(
        optax.ema(decay),
        optax.scale_by_sign(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
