"""Optimizers: as a configuration asks for them, and as the compiled step runs them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.core.keep import Keep, make_anew
from runner.core.schedules import ReduceOnPlateau, Schedule, states_of
from runner.errors import ConfigError


class OptimizerSpec(NamedTuple):
    """The optimization that the resolved config asks for.

    Attributes:
      factory: the optimizer's function and all of its arguments.
      schedule: that of the learning rate, maybe with a plateau rule.
      steps: the length of the run.
      clip_global_norm, mask_weight_decay: as in the `train` section.
    """

    factory: functools.partial
    schedule: Schedule | ReduceOnPlateau
    steps: int
    clip_global_norm: float | None
    mask_weight_decay: bool

    @property
    def base_schedule(self) -> Schedule:
        """The schedule without its plateau rule."""
        schedule = self.schedule
        return schedule.base if isinstance(schedule, ReduceOnPlateau) else schedule

    @property
    def name(self) -> str:
        """A readable name, such as "optax.adam"."""
        package = self.factory.func.__module__.split(".")[0]
        return f"{package}.{self.factory.func.__name__}"

    @property
    def text(self) -> str:
        """The same with the learning rate, such as "optax.adam(0.001)"."""
        return f"{self.name}({self.factory.keywords['learning_rate']:g})"

    def with_values(self, hyperparameters: dict[str, float]) -> "OptimizerSpec":
        """The same with other values of the float arguments."""
        values = dict(hyperparameters)
        clip = values.pop("clip_global_norm", None)
        factory = functools.partial(self.factory, **values)
        return self._replace(factory=factory, clip_global_norm=clip)

    def textbook(self, rates: np.ndarray) -> optax.GradientTransformationExtraArgs:
        """Clipping, the optimizer with a schedule, the plateau: optax, plainly chained.

        Args:
          rates: the learning rate of each step.
        """
        arguments = dict(self.factory.keywords)
        if self.mask_weight_decay:
            arguments[mask_argument(self.factory.func)] = decayed_parameters
        arguments["learning_rate"] = lambda count: jnp.asarray(rates)[count]
        parts = []
        if self.clip_global_norm is not None:
            parts.append(optax.clip_by_global_norm(self.clip_global_norm))
        parts.append(_scheduled(self.factory.func, arguments))
        if isinstance(self.schedule, ReduceOnPlateau):
            parts.append(self.schedule.transformation)
        return optax.chain(*parts)


def _scheduled(function: Callable, arguments: dict) -> optax.GradientTransformation:
    """`function` with a schedule, or with each step's value of it if it takes none."""
    if _takes_schedule(function, arguments):
        return function(**arguments)
    others = set(arguments) - {"learning_rate"}
    return optax.inject_hyperparams(function, static_args=others)(**arguments)


def _takes_schedule(function: Callable, arguments: dict) -> bool:
    annotation = inspect.signature(function).parameters["learning_rate"].annotation
    if annotation in (jax.typing.ArrayLike, float, Any):
        return False
    try:
        jax.eval_shape(lambda: toy_update(function(**arguments)))
    except (TypeError, ValueError):
        return False
    return True


def decayed_parameters(params: Any) -> Any:
    """True for parameters that weight decay applies to: not biases or norm scales."""
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
        "eval_loss": eval_loss,  # reduce_on_plateau with watch=validation
    }


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
    factory, schedule = wanted.factory, wanted.schedule
    arguments = {k: v for k, v in factory.keywords.items() if k != "learning_rate"}
    if wanted.mask_weight_decay:
        if arguments.get("adam_weight_decay"):
            raise ConfigError(
                "train.mask_weight_decay=true has no effect on "
                f"optimizer.adam_weight_decay={arguments['adam_weight_decay']}, which "
                "optax doesn't mask; set it to 0"
            )
        arguments[mask_argument(factory.func)] = decayed_parameters
    floats = {k: v for k, v in arguments.items() if isinstance(v, float)}
    static = {k: v for k, v in arguments.items() if k not in floats}
    refused = keep(
        ("refused as traced", factory.func, f"{static} {sorted(floats)}"),
        lambda: _refused_as_traced(factory.func, static, floats),
    )
    for name in refused:
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

    if accepts(list(floats)):
        return []
    return [k for k in floats if not accepts([k])]
