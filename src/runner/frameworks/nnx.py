"""Flax nnx: a Module, `nnx.grad` and `nnx.Optimizer`."""

import functools

import jax
from flax import nnx
from flax.core.spmd import get_pspec

from runner.core.optimizer_spec import extra_arguments
from runner.core.optimizers import Optimizer
from runner.core.pipeline import Pipeline, TrainState
from runner.errors import ConfigError, InPart, what_is
from runner.models.model import Model, with_arrays_as_data
from runner.tasks.task import Task, mean, sums

# Everything a forward pass may change, except random number streams, which restart from
# each step's key, and what it has only sown to be looked at.
model_state_filter = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))


def pipeline(model: Model, task: Task, optimizer: Optimizer) -> Pipeline:
    """The usual nnx training step; its objects live only while it is traced.

    Each function makes a new module, with its step's keys, and then updates it with the
    state it was given: JAX drops the initialisers. Arguments and results are dicts,
    since an `nnx.State` that is carried from step to step is compiled twice.
    """
    make = model.form("nnx")

    # Jitted, so that the slow constructor runs once, not in each trace that needs it:
    # those in float64, for verification, too.
    @functools.partial(jax.jit, inline=True)
    def parts(key):
        # The names of axes are for the runner's mesh, which `sharded` knows.
        with nnx.use_eager_sharding(False):
            with InPart("model"):
                made = make(nnx.Rngs(key))
            if not isinstance(made, nnx.Module):
                raise ConfigError(
                    f"model: its function nnx returned {what_is(made)}, and must "
                    "return an nnx.Module"
                )
            return nnx.split(with_arrays_as_data(made))

    def new(key):
        with jax.enable_x64(False):
            made = parts(key)
        return nnx.merge(*made)

    def module(state, key, train):
        made = new(key)
        nnx.update(made, state.params)
        nnx.update(made, state.model_state)
        made.train() if train else made.eval()
        return made

    def optimizer_of(made, learning_rate, hyperparameters):
        tx = optimizer.transformation(learning_rate, hyperparameters)
        return nnx.Optimizer(made, tx, wrt=nnx.Param)

    def init(key, learning_rate, hyperparameters):
        made = new(key)
        if model.init:
            params, model_state = model.init(key)
            nnx.update(made, params)
            nnx.update(made, model_state)
        created = optimizer_of(made, learning_rate, hyperparameters)
        return TrainState(*_values(made), _dicts(nnx.as_pure(created.opt_state)))

    def gradients(state, batch, key):
        made = module(state, key, train=True)

        def loss_fn(made):
            with InPart("model"):
                outputs = made(task.inputs(batch))
            found = sums(task, outputs, batch)
            return mean(found.loss, found.weight), found

        grads, found = nnx.grad(loss_fn, has_aux=True)(made)
        return found, _dicts(nnx.as_pure(grads)), _values(made)[1]

    def apply_gradients(
        state, grads, loss, learning_rate, hyperparameters, loss_fn, eval_loss
    ):
        made = module(state, jax.random.key(0), train=True)
        updater = optimizer_of(made, learning_rate, hyperparameters)
        updater.opt_state = _like(updater.opt_state, state.opt_state)
        grads = _like(nnx.state(made, nnx.Param), grads)
        extra = extra_arguments(
            grads, loss, lambda params: loss_fn(_dicts(params)), eval_loss
        )
        updater.update(made, grads, **extra)
        # nnx turns every list, such as sm3's, into a State: restore the lists.
        opt_state = _like(state.opt_state, nnx.as_pure(updater.opt_state))
        return TrainState(_values(made)[0], state.model_state, opt_state)

    def predict(state, inputs):
        made = module(state, jax.random.key(0), train=False)
        with InPart("model"):
            return made(inputs)

    def partitioning():
        with jax.enable_x64(False):
            _, state = jax.eval_shape(parts, jax.random.key(0))
        found = {}
        for path, variable in nnx.to_flat_state(nnx.filter_state(state, nnx.Param)):
            given = variable.get_metadata()
            if names := given.get("out_sharding"):
                names = get_pspec(names, given.get("sharding_rules"))
                shape = variable.get_value().shape
                # A NamedSharding is for another mesh: only its names count here.
                found["/".join(map(str, path))] = shape, getattr(names, "spec", names)
        return found

    return Pipeline(init, gradients, apply_gradients, predict, partitioning)


def _values(made):
    params, model_state, _ = nnx.state(made, nnx.Param, model_state_filter, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)


def _like(variables, values):
    """`values`, in the structure of `variables`: they have the same order of leaves."""
    return jax.tree.unflatten(jax.tree.structure(variables), jax.tree.leaves(values))


def _dicts(tree):
    """`tree` with each `nnx.State` in it as a dict of arrays."""
    is_state = lambda node: isinstance(node, nnx.State)  # noqa: E731
    to_dict = lambda node: nnx.to_pure_dict(node) if is_state(node) else node  # noqa: E731
    return jax.tree.map(to_dict, tree, is_leaf=is_state)
