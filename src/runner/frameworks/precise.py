"""The precision of matrix products, around any framework's pipeline."""

import functools
from collections.abc import Callable

import jax

from runner.core.pipeline import Pipeline


def precise(pipeline: Pipeline, matmul: str) -> Pipeline:
    """`pipeline` with all its matrix products and convolutions in one precision.

    Args:
      pipeline: of any framework.
      matmul: a name of `jax.default_matmul_precision`, such as "highest".
    """
    if matmul == "default":
        return pipeline

    def within(function: Callable) -> Callable:
        @functools.wraps(function)
        def traced(*arguments):
            with jax.default_matmul_precision(matmul):
                return function(*arguments)

        return traced

    return Pipeline(*map(within, pipeline))
