"""Optimizers that are not those of the configuration, or not all of them.

The first two are flax #4087: a helper that is handed optax.adam and quietly uses
optax.sgd.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training import train_state

from runner.core.pipeline import TrainState
from runner.frameworks import jax as plain
from runner.frameworks import linen as linen_pipeline
from runner.frameworks import nnx as nnx_pipeline


def create_train_state(module, params, learning_rate):
    """The helper of flax #4087."""
    return train_state.TrainState.create(
        apply_fn=module.apply, params=params, tx=optax.sgd(learning_rate)
    )


def linen_sgd(model, task, optimizer):
    """linen: `create_train_state` chooses the optimizer."""
    honest = linen_pipeline.pipeline(model, task, optimizer, {})
    module = model.form("linen")()

    def init(key, learning_rate, hyperparameters):
        params, model_state = model.init(key)
        state = create_train_state(module, params, learning_rate)
        return TrainState(state.params, model_state, state.opt_state)

    def apply_gradients(state, grads, loss, learning_rate, hyperparameters, *_):
        before = create_train_state(module, state.params, learning_rate)
        after = before.replace(opt_state=state.opt_state).apply_gradients(grads=grads)
        return TrainState(after.params, state.model_state, after.opt_state)

    return honest._replace(init=init, apply_gradients=apply_gradients)


def nnx_sgd(model, task, optimizer):
    """nnx: the optimizer is made where the model is, from the learning rate alone."""
    swapped = optimizer._replace(
        transformation=lambda rate, hyperparameters: optax.sgd(0.001)
    )
    return nnx_pipeline.pipeline(model, task, swapped)


def _changed(model, task, optimizer, change):
    """Pure JAX with `change(tx arguments) -> tx`."""
    swapped = optimizer._replace(transformation=change)
    return plain.pipeline(model, task, swapped)


def adam_for_adamw(model, task, optimizer):
    return _changed(model, task, optimizer, lambda rate, h: optax.adam(rate))


def learning_rate_twice(model, task, optimizer):
    def change(rate, h):
        return optax.chain(optimizer.transformation(rate, h), optax.scale(rate))

    return _changed(model, task, optimizer, change)


def ignores_the_schedule(model, task, optimizer):
    def change(rate, h):
        return optimizer.transformation(0.001, h)

    return _changed(model, task, optimizer, change)


def ignores_arguments(model, task, optimizer):
    return _changed(model, task, optimizer, lambda rate, h: optax.adam(rate))


def double_update(model, task, optimizer):
    def change(rate, h):
        return optax.chain(optimizer.transformation(rate, h), optax.scale(2.0))

    return _changed(model, task, optimizer, change)


def ascends(model, task, optimizer):
    def change(rate, h):
        return optax.chain(optimizer.transformation(rate, h), optax.scale(-1.0))

    return _changed(model, task, optimizer, change)


def clips_unasked(model, task, optimizer):
    def change(rate, h):
        clip = optax.clip_by_global_norm(0.01)
        return optax.chain(clip, optimizer.transformation(rate, h))

    return _changed(model, task, optimizer, change)


def decays_everything(model, task, optimizer):
    def change(rate, h):
        return optax.adamw(rate, weight_decay=h["weight_decay"])

    return _changed(model, task, optimizer, change)


def _after(model, task, optimizer, change):
    """Pure JAX whose next state is `change(before, after)`."""
    honest = plain.pipeline(model, task, optimizer)

    def apply_gradients(state, *rest):
        return change(state, honest.apply_gradients(state, *rest))

    return honest._replace(apply_gradients=apply_gradients)


def freezes_a_parameter(model, task, optimizer):
    def change(before, after):
        frozen = after.params | {"output": before.params["output"]}
        return after._replace(params=frozen)

    return _after(model, task, optimizer, change)


def forgets_its_state(model, task, optimizer):
    def change(before, after):
        return after._replace(opt_state=before.opt_state)

    return _after(model, task, optimizer, change)


def updates_twice(model, task, optimizer):
    honest = plain.pipeline(model, task, optimizer)

    def apply_gradients(state, *rest):
        return honest.apply_gradients(honest.apply_gradients(state, *rest), *rest)

    return honest._replace(apply_gradients=apply_gradients)


def _with_loss(model, task, optimizer, replaced):
    honest = plain.pipeline(model, task, optimizer)

    def apply_gradients(state, grads, loss, *rest):
        return honest.apply_gradients(state, grads, replaced(loss), *rest)

    return honest._replace(apply_gradients=apply_gradients)


def forgets_the_loss(model, task, optimizer):
    """`value=0.` to make the TypeError go away: the plateau never comes."""
    return _with_loss(model, task, optimizer, jnp.zeros_like)


def watches_the_wrong_loss(model, task, optimizer):
    """The training loss where the evaluation's is to be watched."""
    honest = plain.pipeline(model, task, optimizer)

    def apply_gradients(state, grads, loss, rate, hyperparameters, loss_fn, eval_loss):
        return honest.apply_gradients(
            state, grads, loss, rate, hyperparameters, loss_fn, loss
        )

    return honest._replace(apply_gradients=apply_gradients)


def knows_its_arguments(model, task, optimizer):
    """The config's values, but not as arguments: the next run would get them too."""

    def change(rate, h):
        return optimizer.transformation(rate, optimizer.hyperparameters)

    return _changed(model, task, optimizer, change)


def changes_its_arguments(model, task, optimizer):
    """In place: a copy of the config's, so that nothing comes of it."""
    optimizer.hyperparameters["b1"] = 0.5
    return plain.pipeline(model, task, optimizer)


def drops_the_clipping(model, task, optimizer):
    def change(rate, h):
        return optax.sgd(rate)

    return _changed(model, task, optimizer, change)


def forgets_value(model, task, optimizer):
    """The stock TrainState's mistake (flax #4471): no `value` at all."""
    honest = plain.pipeline(model, task, optimizer)

    def apply_gradients(state, grads, loss, learning_rate, hyperparameters, *_):
        tx = optimizer.transformation(learning_rate, hyperparameters)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, state.model_state, opt_state)

    return honest._replace(apply_gradients=apply_gradients)


def drops_the_plateau(model, task, optimizer):
    return _changed(model, task, optimizer, lambda rate, h: optax.adam(rate))


def gradients_of_float16(model, task, optimizer):
    honest = plain.pipeline(model, task, optimizer)

    def apply_gradients(state, grads, *rest):
        half = jax.tree.map(lambda g: g.astype(jnp.float16).astype(g.dtype), grads)
        return honest.apply_gradients(state, half, *rest)

    return honest._replace(apply_gradients=apply_gradients)


def nnx_trains_only_kernels(model, task, optimizer):
    """nnx: `wrt` that leaves the biases out."""
    honest = nnx_pipeline.pipeline(model, task, optimizer)

    def apply_gradients(state, grads, loss, rate, hyperparameters, loss_fn, eval_loss):
        made = model.form("nnx")(nnx.Rngs(0))
        nnx.update(made, state.params)
        after = honest.apply_gradients(
            state, grads, loss, rate, hyperparameters, loss_fn, eval_loss
        )
        kept = jax.tree.map(
            lambda old, new: new if old.ndim > 1 else old, state.params, after.params
        )
        return after._replace(params=kept)

    return honest._replace(apply_gradients=apply_gradients)


# Pipeline, overrides, and what the refusal must say.
CASES = [
    (
        "linen_sgd",
        ["framework=linen"],
        r"match optax\.sgd\(0\.001\), not optax\.adam\(0\.001\)",
    ),
    ("nnx_sgd", ["framework=nnx"], r"match optax\.sgd\(0\.001\), not optax\.adam"),
    (
        "adam_for_adamw",
        ["optimizer=adamw"],
        r"match optax\.adamw\(0\.001\) without weight decay",
    ),
    ("learning_rate_twice", [], r"with the learning rate applied twice"),
    (
        "ignores_the_schedule",
        ["schedule=cosine"],
        r"adam\(0\.001\) at a constant learning rate, not \S+ with its schedule",
    ),
    (
        "ignores_arguments",
        ["optimizer.b1=0.5"],
        r"adam\(0\.001\) with its default arguments",
    ),
    ("double_update", [], r"match optax\.adam\(0\.002\)"),
    ("ascends", [], r"match optax\.adam\(-0\.001\)"),
    ("clips_unasked", ["optimizer=sgd"], r"At step 1 of 12 in float64"),
    (
        "decays_everything",
        ["optimizer=adamw", "train.mask_weight_decay=true"],
        r"match optax\.adamw\(0\.001\) without its mask",
    ),
    (
        "freezes_a_parameter",
        [],
        r"it changed output/(bias|kernel)\[[\d, ]+\] by 0 instead of",
    ),
    ("forgets_its_state", [], r"At step 2 of 12"),
    ("updates_twice", [], r"At step 1 of 12 in float64"),
    (
        "forgets_the_loss",
        ["schedule=reduce_on_plateau"],
        r"match optax\.adam\(0\.001\) without reduce_on_plateau",
    ),
    (
        "watches_the_wrong_loss",
        ["schedule=reduce_on_plateau", "schedule.watch=validation", "train.steps=44"],
        r"At step 1 of 12 in float64 .* by -1 instead of -0\.5",
    ),
    ("knows_its_arguments", [], r"doesn't use the hyperparameters that it is given"),
    (
        "drops_the_clipping",
        ["optimizer=sgd", "train.clip_global_norm=50"],
        r"match optax\.sgd\(0\.1\) without clipping",
    ),
    ("forgets_value", ["schedule=reduce_on_plateau"], r"TypeError.*value"),
    (
        "drops_the_plateau",
        ["schedule=reduce_on_plateau"],
        r"match optax\.adam\(0\.001\) without reduce_on_plateau",
    ),
    ("gradients_of_float16", ["optimizer=sgd"], r"At step 1 of 12 in float64"),
    ("nnx_trains_only_kernels", [], r"it changed \S*bias\S* by 0 instead of"),
]
