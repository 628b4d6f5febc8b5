"""A function that is compiled in the background."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax

# Of what runs for moments on a CPU, so that XLA doesn't think for seconds.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
# Of a whole model's initial values. They are compiled in an eighth of the time, and are
# as fast, and have the same bits, as with all optimizations.
BRIEF: dict[str, Any] = {"xla_backend_optimization_level": 1}
if jax.__version__.startswith("0.10."):  # newer ones can't do without them
    QUICK["xla_cpu_use_fusion_emitters"] = BRIEF["xla_cpu_use_fusion_emitters"] = False


def once(function: Callable, options: dict[str, Any] = QUICK, **more: Any) -> Any:
    """`jax.jit` of what is called once or twice, on a CPU with these options."""
    is_cpu = jax.default_backend() == "cpu"
    return jax.jit(function, compiler_options=options if is_cpu else None, **more)


def _looking_for_nans(jitted: Any, *arguments: Any) -> Any:
    """Call `jitted` so that JAX raises at a NaN, if that is asked for.

    Once a thread has left `jax.debug_nans(False)`, as verification does, JAX 0.10 looks
    for none there, whatever the flag says, until the thread enters it again.
    """
    with jax.debug_nans(jax.config.jax_debug_nans):  # pyright: ignore[reportAttributeAccessIssue]
        return jitted(*arguments)


class Compiling:
    """Traces and compiles a function while its caller goes on.

    Python continues while XLA compiles, so a run takes its first steps before the
    program of all others is ready. Several processes compile in step with each other.

    Args:
      jitted: the function, from `jax.jit`.
      arguments: their shapes, dtypes and shardings.
    """

    def __init__(self, jitted: Any, *arguments: Any):
        self._jitted = jitted
        self._arguments = arguments
        self._future: Future[Callable] = Future()
        self._waited = 0.0
        if jax.config.jax_debug_nans:  # pyright: ignore[reportAttributeAccessIssue]
            # Compiled ahead, JAX wouldn't find the NaN.
            self._future.set_result(partial(_looking_for_nans, jitted))
        elif jax.process_count() > 1:
            self._compile()
        else:
            threading.Thread(target=self._compile, name="runner-compile").start()

    def result(self) -> Callable:
        """The compiled function, once it is ready.

        Raises:
          whatever tracing or compiling has raised.
        """
        started = time.perf_counter()
        try:
            return self._future.result()
        finally:
            self._waited += time.perf_counter() - started

    def ready(self) -> bool:
        """Whether `result` returns, or raises, at once."""
        return self._future.done()

    def waited(self) -> float:
        """The seconds that callers have waited for it since this was called last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _compile(self) -> None:
        try:
            made = self._jitted.lower(*self._arguments).compile()
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(made)
