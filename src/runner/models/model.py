"""The interface of a model: one architecture in up to three frameworks."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax import Array  # the name `jax` is a field of Model
from jax.core import Tracer

from runner.data.dataset import Feature
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from flax import linen, nnx

Params = Any  # a tree of dicts, by the same paths in every framework
ModelState = Any  # what a forward pass changes, such as BatchNorm's statistics


class MissingForm(ConfigError):
    """A model can't run in the chosen framework."""


class Model(NamedTuple):
    """One architecture. A framework whose form is None can't run it.

    Inputs and outputs are arrays [B, ...] or trees of them: the task says which columns
    of a batch are the inputs, and what it does with the outputs.

    Attributes:
      init: canonical initial values, the same in every framework: key ->
        (params, model_state). None: each framework initialises in its own way, and
        a comparison between frameworks then differs in its initial values too.
      jax: the forward pass of pure JAX: (params, model_state, inputs, key, train) ->
        (outputs, model_state). `key` is for dropout.
      linen: makes a `linen.Module`, called with (inputs, train).
      nnx: makes an `nnx.Module` from an `nnx.Rngs`, called with (inputs) after
        `train()` or `eval()`.
    """

    init: Callable[[Array], tuple[Params, ModelState]] | None = None
    jax: Callable[..., tuple[Any, ModelState]] | None = None
    linen: "Callable[[], linen.Module] | None" = None
    nnx: "Callable[[nnx.Rngs], nnx.Module] | None" = None

    def form(self, name: str) -> Callable:
        """The field `name`, which the chosen framework needs.

        Raises:
          MissingForm: it is None.
        """
        form = getattr(self, name)
        if form is None:
            given = [field for field, value in self._asdict().items() if value]
            able = [f for f in given if f != "init" and (f != "jax" or self.init)]
            others = f". Try framework={' or '.join(able)}" if able else ""
            raise MissingForm(
                f"this model has no {name!r}, which the framework needs; it has "
                f"{', '.join(given) or 'nothing'}{others}"
            )
        return form


def with_arrays_as_data(made: "nnx.Module") -> "nnx.Module":
    """`made`, with its plain arrays in its state, as nnx has them outside a trace.

    A tracer it takes for static, and the value would be lost with its trace.
    """
    from flax import nnx

    for _, part in nnx.iter_modules(made):
        for name, value in [*vars(part).items()]:
            if isinstance(value, Tracer):
                setattr(part, name, nnx.data(value))
    return made


def single(model: str, inputs: Any) -> Feature:
    """`inputs`, for a model of one input.

    Raises:
      ConfigError: there are several.
    """
    if not isinstance(inputs, Feature):
        raise ConfigError(
            f"model={model} takes one input, but task.inputs names {', '.join(inputs)}"
        )
    return inputs


def input_size(model: str, inputs: Any) -> int:
    """The size of a model's one input when it is flattened."""
    return math.prod(single(model, inputs).shape)


def output_size(model: str, output: Any) -> int:
    """The size of a model's outputs [B, size].

    Raises:
      ConfigError: the task needs another shape.
    """
    if not (isinstance(output, tuple) and len(output) == 1):
        raise ConfigError(
            f"model={model} has outputs of shape [B, size], but the task needs "
            f"{output}; choose another model or task"
        )
    return output[0]


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function of `jax.nn` called `name`."""
    names = [n for n in dir(jax.nn) if callable(getattr(jax.nn, n))]
    if name not in names or not _is_elementwise(getattr(jax.nn, name)):
        raise ConfigError(
            f"model.activation={name} is not an activation function of jax.nn."
            + did_you_mean(name, [n for n in names if n != name])
        )
    return getattr(jax.nn, name)


def _is_elementwise(function: Callable) -> bool:
    try:
        example = jax.ShapeDtypeStruct((2, 3), jax.numpy.float32)
        return jax.eval_shape(function, example).shape == (2, 3)
    except Exception:  # it takes other arguments, so it isn't one
        return False


def dense_init(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """LeCun-normal kernel [inputs, outputs] and zero bias, flax's defaults."""
    kernel = lecun_normal(key, (inputs, outputs))
    return {"kernel": kernel, "bias": jax.numpy.zeros(outputs, jax.numpy.float32)}


def lecun_normal(key: jax.Array, shape: tuple[int, ...]) -> Array:
    """Flax's default for kernels, in float32."""
    return jax.nn.initializers.lecun_normal()(key, shape, jax.numpy.float32)


def dense(params: dict[str, Array], x: Array, dtype: str) -> Array:
    """x [..., I] @ kernel, plus the bias if there is one, computed in `dtype`."""
    x = x.astype(dtype) @ params["kernel"].astype(dtype)
    if "bias" not in params:
        return x
    return x + params["bias"].astype(dtype).reshape(*(1,) * (x.ndim - 1), -1)


def dropout(
    x: jax.Array,
    rate: float,
    key: jax.Array,
    train: bool,
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """Zero a fraction `rate` of `x` in training; scale the rest by 1 / (1 - rate).

    Along `broadcast_dims` all entries are zeroed alike.
    """
    if rate == 0 or not train:
        return x
    sizes = [1 if dim in broadcast_dims else n for dim, n in enumerate(x.shape)]
    keep = jax.random.bernoulli(key, 1 - rate, sizes)
    return jax.numpy.where(keep, x / (1 - rate), 0)


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raise ConfigError unless all of a model's `sizes` are at least 1."""
    for name, size in sizes.items():
        if min([size] if isinstance(size, int) else size, default=1) < 1:
            raise ConfigError(f"model.{name}={size} must be at least 1")


def check_rates(**rates: float) -> None:
    """Raise ConfigError unless all of a model's `rates` are dropout rates."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ConfigError(f"model.{name}={rate} must be at least 0 and below 1")
