"""What a pipeline has to compute, written a second time and as plainly as JAX allows.

Checks compare a live pipeline with this one. It shares no code with `runner.frameworks`
and none with a user's pipeline: it calls the model's own form, takes `jax.grad` of the
task's loss and applies the optimizer's updates.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from flax.core import meta

from runner.core.optimizer_spec import extra_arguments
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline, TrainState
from runner.errors import ConfigError
from runner.models.model import Model, with_arrays_as_data
from runner.tasks.task import Task, mean, sums

FORMS = ("jax", "linen", "nnx")


class Watched(Model):
    """A model that notes which of its forms a pipeline uses."""

    def __new__(cls, model: Model) -> "Watched":
        watched = super().__new__(cls, *model)
        watched.used = []
        return watched

    used: list[str]

    def __getattribute__(self, name: str) -> Any:
        if name in FORMS:
            object.__getattribute__(self, "used").append(name)
        return super().__getattribute__(name)

    @property
    def its_form(self) -> str:
        """The form that the pipeline used last.

        Raises:
          ConfigError: it used none, so it can't be checked.
        """
        if not self.used:
            raise ConfigError(
                "verify: the pipeline uses none of the forms of the model (jax, "
                "linen, nnx), so it can't be checked. Take the model from "
                "Model.form(name), or set verify=false"
            )
        return self.used[-1]


def reference(
    model: Model, form: str, task: Task, optimizer: Optimizer, example: dict
) -> Pipeline:
    """The pipeline that training with `form` of `model` means.

    Args:
      model: one architecture.
      form: "jax", "linen" or "nnx".
      task: what is learnt.
      optimizer: the family of the run.
      example: shapes and dtypes of a batch.
    """
    shapes = task.inputs(example)
    initial, forward = _FORWARD[form](getattr(model, form), shapes, model.init)

    def init(key, learning_rate, hyperparameters):
        params, model_state = (model.init or initial)(key)
        tx = optimizer.transformation(learning_rate, hyperparameters)
        return TrainState(params, model_state, tx.init(params))

    def gradients(state, batch, key):
        def loss(params):
            inputs = task.inputs(batch)
            outputs, after = forward(params, state.model_state, inputs, key, True)
            total = sums(task, outputs, batch)
            return mean(total.loss, total.weight), (total, after)

        grads, (total, after) = jax.grad(loss, has_aux=True)(state.params)
        return total, grads, after

    def apply_gradients(
        state, grads, loss, learning_rate, hyperparameters, loss_fn, eval_loss
    ):
        tx = optimizer.transformation(learning_rate, hyperparameters)
        extra = extra_arguments(grads, loss, loss_fn, eval_loss)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state)

    def predict(state, inputs):
        key = jax.random.key(0)  # nothing is random in evaluation mode
        return forward(state.params, state.model_state, inputs, key, False)[0]

    return Pipeline(init, gradients, apply_gradients, predict)


# Each takes (form, shapes of the inputs, canonical init) and returns (init, forward):
# key -> (params, model_state), and (params, model_state, inputs, key, train) ->
# (outputs, model_state).


def _jax(form: Callable, shapes: Any, canonical: Callable | None):
    def forward(params, model_state, inputs, key, train):
        return form(params, model_state, inputs, key, train=train)

    return canonical, forward


def _linen(form: Callable[[], linen.Module], shapes: Any, canonical: Callable | None):
    module = form()

    def init(key):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        variables = dict(meta.unbox(module.init(key, zeros, train=False)))
        return variables.pop("params"), variables

    def forward(params, model_state, inputs, key, train):
        # Canonically, BatchNorm's statistics are all that a forward pass changes.
        boxed = canonical is not None and model_state
        variables = {"batch_stats": model_state} if boxed else model_state
        given = {"params": params, **variables}
        if not train:
            return module.apply(given, inputs, train=False), model_state
        outputs, changed = module.apply(
            given, inputs, train=True, mutable=list(variables), rngs=key
        )
        return outputs, changed["batch_stats"] if boxed else changed

    return init, forward


def _nnx(form: Callable[..., nnx.Module], shapes: Any, canonical: Callable | None):
    changed = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))

    # Jitted, so that the slow constructor runs once, not in each trace that needs it.
    @functools.partial(jax.jit, inline=True)
    def parts(key):
        # The names of axes are for the runner's mesh.
        with nnx.use_eager_sharding(False), jax.enable_x64(False):
            return nnx.split(with_arrays_as_data(form(nnx.Rngs(key))))

    def made(key):
        return nnx.merge(*parts(key))

    def values(module):
        params = nnx.state(module, nnx.Param)
        others = nnx.state(module, changed)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(others)

    def forward(params, model_state, inputs, key, train):
        module = made(key)
        nnx.update(module, params)
        nnx.update(module, model_state)
        module.train() if train else module.eval()
        outputs = module(inputs)
        return outputs, values(module)[1]

    return lambda key: values(made(key)), forward


_FORWARD = {"jax": _jax, "linen": _linen, "nnx": _nnx}
