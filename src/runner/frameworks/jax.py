"""Pure JAX: a dict of parameters and plain optax."""

import jax
import optax

from runner.core.optimizer_spec import extra_arguments
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline, TrainState
from runner.errors import InPart
from runner.models.model import Model
from runner.tasks.task import Task, mean, sums


def pipeline(model: Model, task: Task, optimizer: Optimizer) -> Pipeline:
    """`jax.grad`, `tx.update` and `optax.apply_updates`."""
    forward = model.form("jax")
    initial_values = model.form("init")

    def init(key, learning_rate, hyperparameters):
        with InPart("model"):
            params, model_state = initial_values(key)
        tx = optimizer.transformation(learning_rate, hyperparameters)
        return TrainState(params, model_state, tx.init(params))

    def gradients(state, batch, key):
        def loss_fn(params):
            with InPart("model"):
                outputs, model_state = forward(
                    params, state.model_state, task.inputs(batch), key, train=True
                )
            found = sums(task, outputs, batch)
            return mean(found.loss, found.weight), (found, model_state)

        grads, (found, model_state) = jax.grad(loss_fn, has_aux=True)(state.params)
        return found, grads, model_state

    def apply_gradients(
        state, grads, loss, learning_rate, hyperparameters, loss_fn, eval_loss
    ):
        tx = optimizer.transformation(learning_rate, hyperparameters)
        extra = extra_arguments(grads, loss, loss_fn, eval_loss)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, state.model_state, opt_state)

    def predict(state, inputs):
        key = jax.random.key(0)  # dropout is off
        with InPart("model"):
            return forward(state.params, state.model_state, inputs, key, train=False)[0]

    return Pipeline(init, gradients, apply_gradients, predict)
