"""What a user's own package may hold, for `_target_: helpers.user_targets.x`."""

import jax

from runner.models.model import Model


def only_jax(*, inputs, output) -> Model:
    return Model(init=lambda key: ({}, {}), jax=lambda *_: None)


def other_output(*, inputs, output) -> Model:
    def init(key):
        return {"w": jax.numpy.ones(())}, {}

    def forward(params, model_state, x, key, train):
        return params["w"] * x.reshape(len(x), -1)[:, :3], model_state

    return Model(init=init, jax=forward)


def raises(*, inputs):
    raise ValueError("mine to see")


def untyped(inputs, width=3, **more):
    return Model()
