"""Flax linen: `Module.apply` and `TrainState`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from flax.core import meta
from flax.core.spmd import get_logical_axis_rules
from flax.training import train_state

from runner.core.optimizer_spec import extra_arguments
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline, TrainState
from runner.errors import ConfigError, InPart, what_is
from runner.models.model import Model
from runner.tasks.task import Task, mean, sums
from runner.trees import path_text


class LinenState(train_state.TrainState):
    """flax's TrainState; `apply_gradients` passes extra arguments to the optimizer.

    The stock one drops them (flax #4471), so reduce_on_plateau never sees a loss.
    """

    def apply_gradients(self, *, grads, **extra):
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, **extra)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


def pipeline(model: Model, task: Task, optimizer: Optimizer, example: dict) -> Pipeline:
    """The usual linen training step, with a LinenState that lives inside it."""
    module = _module(model)

    def collections(model_state):
        # A canonical model state is BatchNorm's statistics without their collection.
        return (
            {"batch_stats": model_state} if model.init and model_state else model_state
        )

    def boxed(key):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
        with InPart("model"):
            return dict(module.init(key, task.inputs(zeros), train=False))

    def init(key, learning_rate, hyperparameters):
        if model.init:
            params, model_state = model.init(key)
        else:
            # Names of axes are read once, by `partitioning`: a state is plain arrays.
            model_state = meta.unbox(boxed(key))
            params = model_state.pop("params")
        tx = optimizer.transformation(learning_rate, hyperparameters)
        created = LinenState.create(apply_fn=module.apply, params=params, tx=tx)
        return TrainState(created.params, model_state, created.opt_state)

    def gradients(state, batch, key):
        variables = collections(state.model_state)

        def loss_fn(params):
            with InPart("model"):
                outputs, mutated = module.apply(
                    {"params": params, **variables},
                    task.inputs(batch),
                    train=True,
                    mutable=list(variables),
                    rngs=key,  # for a stream of any name, not for "dropout" alone
                )
            found = sums(task, outputs, batch)
            return mean(found.loss, found.weight), (found, mutated)

        grads, (found, mutated) = jax.grad(loss_fn, has_aux=True)(state.params)
        canonical = model.init and state.model_state
        return found, grads, mutated["batch_stats"] if canonical else mutated

    def apply_gradients(
        state, grads, loss, learning_rate, hyperparameters, loss_fn, eval_loss
    ):
        tx = optimizer.transformation(learning_rate, hyperparameters)
        before = LinenState(
            step=0,
            apply_fn=module.apply,
            params=state.params,
            tx=tx,
            opt_state=state.opt_state,
        )
        extra = extra_arguments(grads, loss, loss_fn, eval_loss)
        after = before.apply_gradients(grads=grads, **extra)
        return TrainState(after.params, state.model_state, after.opt_state)

    def predict(state, inputs):
        variables = {"params": state.params, **collections(state.model_state)}
        with InPart("model"):
            return module.apply(variables, inputs, train=False)

    def partitioning():
        params = jax.eval_shape(boxed, jax.random.key(0)).get("params", {})
        found = jax.tree.leaves_with_path(params, is_leaf=meta.is_axis_metadata)
        return {
            path_text(path): (box.value.shape, _names(box))
            for path, box in found
            if isinstance(box, meta.Partitioned)
        }

    return Pipeline(init, gradients, apply_gradients, predict, partitioning)


def _module(model: Model) -> linen.Module:
    with InPart("model"):
        module = model.form("linen")()
    if not isinstance(module, linen.Module):
        raise ConfigError(
            f"model: its function linen returned {what_is(module)}, and must return a "
            "linen.Module"
        )
    return module


def _names(box: meta.Partitioned) -> Any:
    """The axes of `nn.with_partitioning`; of logical ones, by flax's rules if any."""
    if isinstance(box, linen.LogicallyPartitioned):
        if rules := box.rules or get_logical_axis_rules():
            return linen.logical_to_mesh_axes(box.names, rules)
    return box.names
