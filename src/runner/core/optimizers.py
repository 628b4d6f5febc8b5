"""Optimizers, as the compiled step runs them."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from runner.core import groups as grouping
from runner.core.group import FACTOR, REST
from runner.core.keep import Keep, make_anew
from runner.core.optimizer_spec import OptimizerSpec, toy_update
from runner.core.schedules import ReduceOnPlateau, states_of
from runner.errors import ConfigError, what_is


class Optimizer(NamedTuple):
    """A family of gradient transformations, one for each set of float arguments.

    `transformation(learning_rate, hyperparameters)` may be called with traced values;
    `hyperparameters` holds the values of this run. All other arguments are part of the
    program.
    """

    transformation: Callable[[Any, dict], optax.GradientTransformationExtraArgs]
    hyperparameters: dict[str, float]


def optimizer(wanted: OptimizerSpec, keep: Keep = make_anew) -> Optimizer:
    """The optimizer that `wanted` asks for, as a family over its float arguments.

    Args:
      wanted: the optimization that a configuration asks for.
      keep: for the names of the floats that a function refuses as traced values.

    Raises:
      ConfigError: an argument that optax refuses, or no weight decay to mask.
    """
    schedule, groups = wanted.schedule, wanted.groups
    families = {REST: _family(wanted, wanted.factory, keep)}
    families |= {g.name: _family(wanted, g.factory, keep) for g in groups}
    floats = dict(families[REST].floats)
    if isinstance(schedule, ReduceOnPlateau) and _is_schedule_free(wanted.factory):
        raise ConfigError(
            f"schedule=reduce_on_plateau scales updates, but "
            f"{wanted.factory.func.__name__} keeps iterates of its own that they must "
            "agree with; choose another schedule or optimizer"
        )
    for group in groups:
        own = families[group.name].floats
        floats |= {group.key(k): v for k, v in own.items()}
        floats[group.key(FACTOR)] = group.factor
    if groups:
        parts = [("optimizer", wanted.factory)]
        parts += [(f"optimizer.groups.{g.name}", g.factory) for g in groups]
        for key, factory in parts:
            _check_may_be_a_part(key, factory)
    if wanted.clip_global_norm is not None:
        floats["clip_global_norm"] = wanted.clip_global_norm

    def transformation(learning_rate, hyperparameters):
        parts = []
        if any(group.frozen for group in groups):
            still = grouping.frozen(groups)
            parts.append(optax.masked(optax.set_to_zero(), still))
        if "clip_global_norm" in hyperparameters:
            clip = hyperparameters["clip_global_norm"]
            parts.append(optax.clip_by_global_norm(clip))
        of = grouping.rates(learning_rate, hyperparameters)
        each = {
            g.name: optax.set_to_zero()
            if g.frozen
            else families[g.name].made(of[g.name], hyperparameters, g.key)
            for g in groups
        }
        rest = families[REST].made(learning_rate, hyperparameters, lambda name: name)
        every: dict[Hashable, Any] = {**each, REST: rest}
        parts.append(optax.partition(every, grouping.labels(groups)) if each else rest)
        if isinstance(schedule, ReduceOnPlateau):
            parts.append(schedule.transformation)
        return optax.chain(*parts)

    return Optimizer(transformation, floats)


class _Family(NamedTuple):
    """An optimizer's function, its arguments, and those that are hyperparameters."""

    function: Callable
    static: dict[str, Any]
    floats: dict[str, float]

    def made(self, learning_rate: Any, values: dict, key: Callable[[str], str]) -> Any:
        """The transformation with the hyperparameters that `values` has by `key`."""
        own = {name: values[key(name)] for name in self.floats}
        return self.function(learning_rate=learning_rate, **self.static, **own)


def _family(wanted: OptimizerSpec, factory: functools.partial, keep: Keep) -> _Family:
    arguments = {k: v for k, v in factory.keywords.items() if k != "learning_rate"}
    if wanted.mask_weight_decay and arguments.get("adam_weight_decay"):
        raise ConfigError(
            "train.mask_weight_decay has no effect on "
            f"optimizer.adam_weight_decay={arguments['adam_weight_decay']}, which "
            "optax doesn't mask; set it to 0"
        )
    arguments = wanted.masked(factory.func, arguments)
    floats = {k: v for k, v in arguments.items() if isinstance(v, float)}
    static = {k: v for k, v in arguments.items() if k not in floats}
    # A mask is a new function each time.
    named = {k: getattr(v, "__qualname__", v) for k, v in static.items()}
    refused = keep(
        ("refused as traced", factory.func, f"{named} {sorted(floats)}"),
        lambda: _refused_as_traced(factory.func, static, floats),
    )
    for name in refused:
        static[name] = floats.pop(name)
    return _Family(factory.func, static, floats)


def _check_may_be_a_part(key: str, factory: functools.partial) -> None:
    """Refuse an optimizer that can't be one of several in a run.

    It has to do with its own parameters: the loss at others is that of all of them.
    """

    def refused(params):
        raise ConfigError(
            f"{key}: {factory.func.__name__} computes the loss or its gradients at "
            "parameters of its own choice, which a group alone doesn't have; choose "
            "another optimizer, or no groups"
        )

    made = functools.partial(factory.func, **factory.keywords | {"learning_rate": 0.1})
    jax.eval_shape(lambda: toy_update(made(), refused))
    if _is_schedule_free(made):
        raise ConfigError(
            f"{key}: {factory.func.__name__} evaluates other parameters than those "
            "that it trains, which groups can't; choose another optimizer, or no groups"
        )


def polyak_sgd(
    learning_rate: Any, scaling: Any, f_min: float, eps: float, variant: str
) -> optax.GradientTransformation:
    """optax.polyak_sgd; the learning rate caps its step size."""
    return optax.polyak_sgd(learning_rate, scaling, f_min, eps, variant)


def sam(
    learning_rate: Any, rho: float, momentum: float | None, nesterov: bool
) -> optax.GradientTransformationExtraArgs:
    """SGD whose gradient is taken `rho` uphill (Foret et al., 2020).

    optax.contrib.sam in opaque mode, so that each of its steps is a step of the run.
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
    """The parameters to evaluate: schedule-free's average, or `params`."""
    for state in states_of(optax.contrib.ScheduleFreeState, opt_state):
        return optax.contrib.schedule_free_eval_params(state, params)
    return params


def _is_schedule_free(factory: Callable) -> bool:
    state = jax.eval_shape(lambda: factory().init({"w": jnp.ones(1)}))
    return bool(states_of(optax.contrib.ScheduleFreeState, state))


def _refused_as_traced(func: Callable, static: dict, floats: dict) -> list[str]:
    """The names of `floats` whose values `func` branches on in Python."""

    def accepts(names):
        fixed = {k: v for k, v in floats.items() if k not in names}
        traced = {k: floats[k] for k in names}

        def step(learning_rate, traced):
            tx = func(learning_rate=learning_rate, **static, **fixed, **traced)
            if not isinstance(tx, optax.GradientTransformation):
                raise ConfigError(
                    f"optimizer: {func.__name__} returned {what_is(tx)}, and must "
                    "return a gradient transformation of optax, as optax.chain does"
                )
            return toy_update(tx)

        try:
            jaxpr = jax.make_jaxpr(step)(0.1, traced).jaxpr
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
        ):
            return False
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"optimizer: {func.__name__} refuses its arguments: {error}"
            ) from error
        rate, read = jaxpr.invars[0], [v for eqn in jaxpr.eqns for v in eqn.invars]
        if not any(v is rate for v in read):
            raise ConfigError(
                f"optimizer: {func.__name__} takes a learning rate and doesn't use it, "
                "so neither does a schedule count, nor is train/learning_rate of the "
                "rows true: end it with optax.scale_by_learning_rate(learning_rate)"
            )
        return True

    if accepts(list(floats)):
        return []
    return [k for k in floats if not accepts([k])]
