"""Initial values and predictions that aren't the model's."""

import jax
import jax.numpy as jnp
import optax

from helpers.sabotaged.base import sabotage


def _initial(change):
    @sabotage
    def pipeline(honest):
        def init(key, *rest):
            return change(honest, key, *rest)

        return {"init": init}

    return pipeline


@_initial
def scaled(honest, key, *rest):
    state = honest.init(key, *rest)
    return state._replace(params=optax.tree.scale(2.0, state.params))


@_initial
def ignores_the_seed(honest, key, *rest):
    return honest.init(jax.random.key(0), *rest)


@_initial
def zero_biases(honest, key, *rest):
    state = honest.init(key, *rest)
    zeroed = jax.tree.map(
        lambda p: p if p.ndim > 1 else jnp.zeros_like(p), state.params
    )
    return state._replace(params=zeroed)


@_initial
def warm_moments(honest, key, *rest):
    state = honest.init(key, *rest)
    warm = jax.tree.map(
        lambda x: x + 0.1 if x.dtype == jnp.float32 else x, state.opt_state
    )
    return state._replace(opt_state=warm)


@sabotage
def temperature(honest):
    def predict(state, inputs):
        return jax.tree.map(lambda x: x / 2, honest.predict(state, inputs))

    return {"predict": predict}


@sabotage
def sharpened(honest):
    """By less than what a metric shows."""

    def predict(state, inputs):
        return jax.tree.map(lambda x: 1.0005 * x, honest.predict(state, inputs))

    return {"predict": predict}


@sabotage
def dropout_left_on(honest, model):
    def predict(state, inputs):
        key = jax.random.key(0)
        return model.jax(state.params, state.model_state, inputs, key, train=True)[0]

    return {"predict": predict}


@sabotage
def dropout_left_on_in_linen(honest, model):
    module = model.linen()

    def predict(state, inputs):
        variables = {"params": state.params, "batch_stats": state.model_state}
        outputs, _ = module.apply(
            variables, inputs, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )  # fmt: skip
        return outputs

    return {"predict": predict}


@sabotage
def dropout_left_on_in_nnx(honest, model):
    from flax import nnx

    def predict(state, inputs):
        with jax.enable_x64(False):
            made = model.nnx(nnx.Rngs(0))
        nnx.update(made, state.params)
        nnx.update(made, state.model_state)
        made.use_running_average = True
        return made(inputs)

    return {"predict": predict}


@sabotage
def batch_statistics(honest, model):
    def predict(state, inputs):
        old, key = state.model_state, jax.random.key(0)
        new = model.jax(state.params, old, inputs, key, train=True)[1]
        batch = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, new, old)
        return honest.predict(state._replace(model_state=batch), inputs)

    return {"predict": predict}


@sabotage
def initial_statistics(honest):
    def predict(state, inputs):
        norm = state.model_state["norm"]
        fresh = {
            "mean": jnp.zeros_like(norm["mean"]),
            "var": jnp.ones_like(norm["var"]),
        }
        return honest.predict(state._replace(model_state={"norm": fresh}), inputs)

    return {"predict": predict}


@sabotage
def hidden_average(honest):
    """Evaluates an average of the parameters that nobody asked for."""

    def init(key, rate, h):
        state = honest.init(key, rate, h)
        return state._replace(opt_state=(state.opt_state, state.params))

    def apply_gradients(state, *rest):
        own, average = state.opt_state
        after = honest.apply_gradients(state._replace(opt_state=own), *rest)
        average = optax.incremental_update(after.params, average, 0.1)
        return after._replace(opt_state=(after.opt_state, average))

    def predict(state, inputs):
        return honest.predict(state._replace(params=state.opt_state[1]), inputs)

    return {"init": init, "apply_gradients": apply_gradients, "predict": predict}


@sabotage
def sees_other_rows(honest):
    def predict(state, inputs):
        outputs = honest.predict(state, inputs)
        return outputs - outputs.mean(axis=0, keepdims=True)

    return {"predict": predict}


LINEN, NNX = ["+framework.base=linen"], ["+framework.base=nnx"]
DIFFERENT = r"predict doesn't evaluate the model\. At batch \d+ of 32 the output"

# Pipeline, overrides, and what the refusal must say.
CASES = [
    ("scaled", [], r"initial values.*; all of it is 2 times what it should be"),
    ("scaled", LINEN, r"initial values.*; all of it is 2 times"),
    ("scaled", NNX, r"initial values.*; all of it is 2 times"),
    ("ignores_the_seed", [], r"initial values.*; every seed gives the same"),
    ("ignores_the_seed", LINEN, r"initial values.*; every seed gives the same"),
    ("ignores_the_seed", NNX, r"initial values.*; every seed gives the same"),
    ("zero_biases", [], r"initial values.* output/bias\[\d+\] is 0 instead of"),
    ("warm_moments", [], r"At step 1 of 12 in float64"),
    ("temperature", [], rf"{DIFFERENT}.*; all of it is 0\.5 times"),
    ("temperature", LINEN, rf"{DIFFERENT}.*; all of it is 0\.5 times"),
    ("temperature", NNX, rf"{DIFFERENT}.*; all of it is 0\.5 times"),
    ("sharpened", [], DIFFERENT),
    ("dropout_left_on", [], DIFFERENT),
    ("dropout_left_on_in_linen", LINEN, DIFFERENT),
    ("dropout_left_on_in_nnx", NNX, DIFFERENT),
    ("batch_statistics", [], DIFFERENT),
    ("initial_statistics", NNX, DIFFERENT),
    ("hidden_average", [], DIFFERENT),
    ("hidden_average", NNX, DIFFERENT),
    ("sees_other_rows", [], DIFFERENT),
]
