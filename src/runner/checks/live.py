"""A user's pipeline under test: what it raises and returns is reported by name."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from runner.core.pipeline import Pipeline
from runner.errors import ConfigError
from runner.trees import by_path

NAMES = ("init", "gradients", "apply_gradients", "predict")


def checked(pipeline: Pipeline) -> Pipeline:
    """`pipeline`, whose exceptions become a ConfigError with the function's name.

    Its init, which is the same in each precision, is traced once.
    """
    named = {k: _named(k, getattr(pipeline, k)) for k in NAMES}
    named["init"] = jax.jit(named["init"], inline=True)
    return pipeline._replace(**named)


def _named(name: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def called(*arguments):
        try:
            return function(*arguments)
        except Exception as error:
            raise ConfigError(
                f"verify: the pipeline's {name} raised {type(error).__name__} on a "
                f"small model of this task, so it can't be checked: {error} "
                "(verify=false trains anyway)"
            ) from error

    return called


def like(found: Any, wanted: Any, name: str) -> Any:
    """`found`, which the pipeline's `name` returned and which must be like `wanted`.

    Raises:
      ConfigError: it has other keys or shapes.
    """
    ours, theirs = (
        {path: jax.numpy.shape(x) for path, x in by_path(tree).items()}
        for tree in (found, wanted)
    )
    if ours != theirs:
        other = next(k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k))
        raise ConfigError(
            f"verify: the pipeline's {name} changed the structure of the state or of "
            f"what it returns: {other or 'it'} has the shape {ours.get(other)}, not "
            f"{theirs.get(other)} (verify=false trains anyway)"
        )
    return jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(found))
