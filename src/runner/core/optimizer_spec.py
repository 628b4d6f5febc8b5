"""The optimization that a configuration asks for, and optax's plain form of it."""

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from runner.core import groups as grouping
from runner.core.group import REST, Group
from runner.core.schedules import ReduceOnPlateau, Schedule
from runner.errors import ConfigError


class OptimizerSpec(NamedTuple):
    """The optimization that the resolved config asks for.

    Attributes:
      factory: the optimizer's function and all of its arguments.
      schedule: that of the learning rate, maybe with a plateau rule.
      steps: the length of the run.
      clip_global_norm, mask_weight_decay: as in the `train` section.
      exempt: patterns of parameters that are masked beside biases and norm scales.
      groups: parameters with an optimization of their own.
    """

    factory: functools.partial
    schedule: Schedule | ReduceOnPlateau
    steps: int
    clip_global_norm: float | None
    mask_weight_decay: bool
    exempt: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()

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
        own = {k: v for k, v in hyperparameters.items() if k in self.factory.keywords}
        return self._replace(
            factory=functools.partial(self.factory, **own),
            clip_global_norm=hyperparameters.get("clip_global_norm"),
            groups=tuple(g.with_values(hyperparameters) for g in self.groups),
        )

    def masked(self, function: Callable, arguments: dict) -> dict[str, Any]:
        """`arguments`, with the mask of weight decay if one is asked for.

        Raises:
          ConfigError: nothing of the optimizer has weight decay to mask.
        """
        if not self.mask_weight_decay:
            return arguments
        every = [self.factory.func, *(group.factory.func for group in self.groups)]
        if not any(map(mask_argument, every)):
            raise ConfigError(
                f"train.mask_weight_decay: {every[0].__name__} has no weight decay to "
                "mask (it takes neither `mask` nor `weight_decay_mask`); try "
                "optimizer=adamw"
            )
        name = mask_argument(function)
        return arguments | ({name: grouping.decayed(self.exempt)} if name else {})

    def textbook(self, rates: np.ndarray) -> optax.GradientTransformationExtraArgs:
        """Clipping, the optimizer with a schedule, the plateau: optax, plainly chained.

        Args:
          rates: the learning rate of each step.
        """
        parts = []
        if any(group.frozen for group in self.groups):
            still = grouping.frozen(self.groups)
            parts.append(optax.masked(optax.set_to_zero(), still))
        if self.clip_global_norm is not None:
            parts.append(optax.clip_by_global_norm(self.clip_global_norm))

        def scheduled(factory: functools.partial, factor: Any) -> Any:
            own = self.masked(factory.func, dict(factory.keywords))
            own["learning_rate"] = lambda count: jnp.asarray(rates)[count] * factor
            return _scheduled(factory.func, own)

        each: dict[Hashable, Any]
        each = {g.name: scheduled(g.factory, g.factor) for g in self.groups}
        each |= {g.name: optax.set_to_zero() for g in self.groups if g.frozen}
        rest = scheduled(self.factory, 1)
        parts.append(
            optax.partition(each | {REST: rest}, grouping.labels(self.groups))
            if each
            else rest
        )
        if isinstance(self.schedule, ReduceOnPlateau):
            parts.append(self.schedule.transformation)
        return optax.chain(*parts)


def _scheduled(function: Callable, arguments: dict) -> optax.GradientTransformation:
    """`function` with a schedule, or with each step's value of it if it takes none."""
    if _takes_schedule(function, arguments):
        return function(**arguments)
    others = {k: v for k, v in arguments.items() if k != "learning_rate"}

    def made(learning_rate: Any) -> optax.GradientTransformation:
        return function(learning_rate=learning_rate, **others)

    return optax.inject_hyperparams(made)(arguments["learning_rate"])


def _takes_schedule(function: Callable, arguments: dict) -> bool:
    if function.__module__.partition(".")[0] not in ("optax", "runner"):
        return False  # one's own gets the rate of each step, however rarely it updates
    annotation = inspect.signature(function).parameters["learning_rate"].annotation
    if annotation in (jax.typing.ArrayLike, float, Any):
        return False
    try:
        jax.eval_shape(lambda: toy_update(function(**arguments)))
    except (TypeError, ValueError):
        return False
    return True


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


def toy_update(
    tx: optax.GradientTransformation, loss_fn: Callable[[Any], Any] = optax.tree.norm
) -> Any:
    """An update of two small parameters: traced, it shows whether `tx` is sound."""
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    one = jnp.ones(())
    extra = extra_arguments(params, one, loss_fn, one)
    tx = optax.with_extra_args_support(tx)
    return tx.update(params, tx.init(params), params, **extra)


def mask_argument(func: Callable) -> str | None:
    """The name of `func`'s argument that limits weight decay to some parameters."""
    names = "mask", "weight_decay_mask"
    taken = inspect.signature(func).parameters
    return next((name for name in names if name in taken), None)
