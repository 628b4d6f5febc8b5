"""Optimizers: optax's, with their float arguments as arguments of the compiled step."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from runner.errors import ConfigError
from runner.schedules import ReduceOnPlateau, Schedule


class Optimizer(NamedTuple):
    """A family of gradient transformations, one for each set of float arguments.

    `transformation(learning_rate, hyperparameters)` may be called with traced values;
    `hyperparameters` holds the values of this run. Whatever else the optimizer takes
    is part of the program.
    """

    transformation: Callable[[Any, dict], optax.GradientTransformationExtraArgs]
    hyperparameters: dict[str, float]


def optimizer(
    factory: functools.partial,
    schedule: Schedule | ReduceOnPlateau,
    *,
    clip_global_norm: float | None,
    mask_weight_decay: bool,
) -> Optimizer:
    """Gradient clipping, `factory`'s optimizer and the plateau rule, in this order.

    Args:
      factory: an optax-like function and its arguments, the learning rate among them.
      schedule: the run's schedule; only its plateau transformation is of use here.
      clip_global_norm: the global norm that gradients are clipped to, or None.
      mask_weight_decay: whether weight decay spares biases and norm scales, which are
        the parameters of fewer than two dimensions.

    Raises:
      ConfigError: an argument that optax refuses, or no weight decay to mask.
    """
    arguments = {k: v for k, v in factory.keywords.items() if k != "learning_rate"}
    if mask_weight_decay:
        arguments[mask_argument(factory.func)] = decayed_parameters
    floats = {k: v for k, v in arguments.items() if isinstance(v, float)}
    static = {k: v for k, v in arguments.items() if k not in floats}
    for name in _refused_as_traced(factory.func, static, floats):
        static[name] = floats.pop(name)
    if clip_global_norm is not None:
        floats["clip_global_norm"] = clip_global_norm

    def transformation(learning_rate, hyperparameters):
        values = dict(hyperparameters)
        parts = []
        if "clip_global_norm" in values:
            parts.append(optax.clip_by_global_norm(values.pop("clip_global_norm")))
        parts.append(factory.func(learning_rate=learning_rate, **static, **values))
        if isinstance(schedule, ReduceOnPlateau):
            parts.append(schedule.transformation)
        return optax.chain(*parts)

    return Optimizer(transformation, floats)


def decayed_parameters(params: Any) -> Any:
    """True for the parameters that weight decay is for: not biases, not norm scales."""
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def extra_arguments(
    grads: Any, loss: Any, loss_fn: Callable[[Any], jax.Array], eval_loss: Any
) -> dict[str, Any]:
    """Everything beyond gradients that an optax update may ask for, by optax's names.

    `loss_fn` gives this batch's loss at any parameters; it costs nothing unless used.
    """

    # optax's line searches refuse extra arguments that are not named here.
    def value_fn(params, obj_fn=None, grad_fn=None, eval_loss=None):
        del obj_fn, grad_fn, eval_loss
        return loss_fn(params)

    return {
        "value": loss,
        "grad": grads,
        "value_fn": value_fn,  # line searches
        "obj_fn": loss_fn,  # sophia
        "grad_fn": lambda params, _: jax.grad(loss_fn)(params),  # sam
        "eval_loss": eval_loss,  # reduce_on_plateau with watch=eval
    }


def polyak_sgd(
    learning_rate: Any, scaling: Any, f_min: float, eps: float, variant: str
) -> optax.GradientTransformation:
    """optax.polyak_sgd; the learning rate caps its step size."""
    return optax.polyak_sgd(learning_rate, scaling, f_min, eps, variant)


def sam(
    learning_rate: Any, rho: float, momentum: float | None, nesterov: bool
) -> optax.GradientTransformationExtraArgs:
    """SGD whose gradient is taken `rho` uphill (Foret et al., 2020).

    optax.contrib.sam in opaque mode, so that a step of it is a step of the run.
    """
    inner = optax.contrib.sam(
        optax.sgd(learning_rate, momentum, nesterov),
        optax.chain(optax.contrib.normalize(), optax.sgd(rho)),
        opaque_mode=True,
    )

    def update(updates, state, params=None, *, grad_fn, **_):
        return inner.update(updates, state, params, grad_fn=grad_fn)

    return optax.GradientTransformationExtraArgs(
        inner.init,
        update,  # pyright: ignore[reportArgumentType]
    )


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """What an optimizer wants evaluated: schedule-free's average, or `params`."""
    state_type = optax.contrib.ScheduleFreeState
    is_state = lambda node: isinstance(node, state_type)  # noqa: E731
    for node in jax.tree.leaves(opt_state, is_leaf=is_state):
        if is_state(node):
            return optax.contrib.schedule_free_eval_params(node, params)
    return params


def toy_update(tx: optax.GradientTransformation) -> Any:
    """An update of two small parameters: traced, it shows whether `tx` is sound."""
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    one = jnp.ones(())
    extra = extra_arguments(params, one, optax.tree.norm, one)
    tx = optax.with_extra_args_support(tx)
    return tx.update(params, tx.init(params), params, **extra)


def mask_argument(func: Callable) -> str:
    """The name of `func`'s argument that limits weight decay to some parameters."""
    parameters = inspect.signature(func).parameters
    for name in ("mask", "weight_decay_mask"):
        if name in parameters:
            return name
    raise ConfigError(
        f"train.mask_weight_decay=true: {func.__name__} has no weight decay to mask "
        "(it takes neither `mask` nor `weight_decay_mask`); try optimizer=adamw"
    )


def _refused_as_traced(func: Callable, static: dict, floats: dict) -> list[str]:
    """The names of `floats` on whose values `func` decides in Python."""

    def accepts(names):
        fixed = {k: v for k, v in floats.items() if k not in names}
        traced = {k: floats[k] for k in names}

        def step(learning_rate, traced):
            return toy_update(
                func(learning_rate=learning_rate, **static, **fixed, **traced)
            )

        try:
            jax.eval_shape(step, 0.1, traced)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
        ):
            return False
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"optimizer: {func.__name__} refuses its arguments: {error}"
            ) from error
        return True

    return [] if accepts(list(floats)) else [k for k in floats if not accepts([k])]
