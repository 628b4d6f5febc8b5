"""Optimizers: optax's, with their float arguments as arguments of the compiled step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from runner.core.optimization import (
    Optimization,
    decayed_parameters,
    mask_argument,
    toy_update,
)
from runner.core.schedules import ReduceOnPlateau
from runner.errors import ConfigError


class Optimizer(NamedTuple):
    """A family of gradient transformations, one for each set of float arguments.

    `transformation(learning_rate, hyperparameters)` may be called with traced values;
    `hyperparameters` holds the values of this run. Whatever else the optimizer takes
    is part of the program.
    """

    transformation: Callable[[Any, dict], optax.GradientTransformationExtraArgs]
    hyperparameters: dict[str, float]


def optimizer(wanted: Optimization) -> Optimizer:
    """What `wanted` asks for, as a family over its float arguments.

    Raises:
      ConfigError: an argument that optax refuses, or no weight decay to mask.
    """
    factory, schedule = wanted.factory, wanted.schedule
    arguments = {k: v for k, v in factory.keywords.items() if k != "learning_rate"}
    if wanted.mask_weight_decay:
        if arguments.get("adam_weight_decay"):
            raise ConfigError(
                "train.mask_weight_decay=true can't spare anything from "
                f"optimizer.adam_weight_decay={arguments['adam_weight_decay']}, which "
                "optax doesn't mask; set it to 0"
            )
        arguments[mask_argument(factory.func)] = decayed_parameters
    floats = {k: v for k, v in arguments.items() if isinstance(v, float)}
    static = {k: v for k, v in arguments.items() if k not in floats}
    for name in _refused_as_traced(factory.func, static, floats):
        static[name] = floats.pop(name)
    if isinstance(schedule, ReduceOnPlateau) and _is_schedule_free(factory):
        raise ConfigError(
            f"schedule=reduce_on_plateau scales updates, but {factory.func.__name__} "
            "keeps iterates of its own that they must agree with; choose another "
            "schedule or optimizer"
        )
    if wanted.clip_global_norm is not None:
        floats["clip_global_norm"] = wanted.clip_global_norm

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


def _is_schedule_free(factory: Callable) -> bool:
    state = jax.eval_shape(lambda: factory().init({"w": jnp.ones(1)}))
    is_state = lambda node: isinstance(node, optax.contrib.ScheduleFreeState)  # noqa: E731
    return any(map(is_state, jax.tree.leaves(state, is_leaf=is_state)))


# Functions, with their other arguments, that took all of their floats as traced values.
_all_traced: set[tuple[Callable, str]] = set()


def _refused_as_traced(func: Callable, static: dict, floats: dict) -> list[str]:
    """The names of `floats` on whose values `func` decides in Python."""
    name = func, f"{static} {sorted(floats)}"
    if name in _all_traced:
        return []

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

    if not accepts(list(floats)):
        return [k for k in floats if not accepts([k])]
    _all_traced.add(name)
    return []
