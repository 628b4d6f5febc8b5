"""The optimization that a config asks for, built as optax's documentation does."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.core.schedules import ReduceOnPlateau, Schedule
from runner.errors import ConfigError


class Optimization(NamedTuple):
    """The optimization that the resolved config asks for.

    Attributes:
      factory: the optimizer's function and all of its arguments.
      schedule: of the learning rate, maybe with a plateau rule.
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
    def text(self) -> str:
        """What a person calls it, such as "optax.adam(0.001)"."""
        package = self.factory.func.__module__.split(".")[0]
        rate = self.factory.keywords["learning_rate"]
        return f"{package}.{self.factory.func.__name__}({rate:g})"

    def learning_rates(self, count: int) -> np.ndarray:
        """The schedule at `count` steps spread over the run, in float64."""
        base = self.base_schedule
        at = np.linspace(0, self.steps - 1, count).astype(int)
        return np.array([float(base(int(step))) for step in at])

    def with_values(self, hyperparameters: dict[str, float]) -> "Optimization":
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
    """`function` with a schedule; where it takes none, with each step's value of it."""
    annotation = inspect.signature(function).parameters["learning_rate"].annotation
    takes_schedule = annotation not in (jax.typing.ArrayLike, float, Any)
    if takes_schedule:
        try:
            jax.eval_shape(lambda: toy_update(function(**arguments)))
        except (TypeError, ValueError):
            takes_schedule = False
    if takes_schedule:
        return function(**arguments)
    others = set(arguments) - {"learning_rate"}
    return optax.inject_hyperparams(function, static_args=others)(**arguments)


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
