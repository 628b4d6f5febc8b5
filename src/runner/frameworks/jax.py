"""Pure JAX: a dict of parameters and plain optax."""

import jax
import optax

from runner.core.optimizers import Optimizer, extra_arguments
from runner.core.pipeline import Pipeline, TrainState, mean_loss
from runner.models.model import Model
from runner.tasks.loss import Loss


def pipeline(model: Model, loss: Loss, optimizer: Optimizer) -> Pipeline:
    """`jax.value_and_grad`, `tx.update` and `optax.apply_updates`."""
    forward = model.form("jax")
    initial_values = model.form("init")

    def init(key, learning_rate, hyperparameters):
        params, model_state = initial_values(key)
        tx = optimizer.transformation(learning_rate, hyperparameters)
        return TrainState(params, model_state, tx.init(params))

    def gradients(state, batch, key):
        def loss_fn(params):
            outputs, model_state = forward(
                params, state.model_state, batch["input"], key, train=True
            )
            value, metrics = mean_loss(loss, outputs, batch)
            return value, (metrics, model_state)

        (value, (metrics, model_state)), grads = jax.value_and_grad(
            loss_fn, has_aux=True
        )(state.params)
        return value, metrics, grads, model_state

    def apply_gradients(
        state, grads, loss, learning_rate, hyperparameters, loss_fn, eval_loss
    ):
        tx = optimizer.transformation(learning_rate, hyperparameters)
        extra = extra_arguments(grads, loss, loss_fn, eval_loss)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, state.model_state, opt_state)

    def predict(state, batch):
        key = jax.random.key(0)  # dropout is off
        return forward(
            state.params, state.model_state, batch["input"], key, train=False
        )[0]

    return Pipeline(init, gradients, apply_gradients, predict)
