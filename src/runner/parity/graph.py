"""A traced function as single operations, each with its layer and its value."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from runner.parity.layers import Layer, layer_of, named
from runner.trees import is_key, path_text

# Operations that are others in a wrapping. Loops stay whole.
_WRAPPINGS = (
    "jit", "call", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint",
    "remat2",
)  # fmt: skip
# The fill of a mask, such as -1e10 or the least number, is any number from here on.
_FILL = 1e8


@dataclass(frozen=True, eq=False)  # an array has no hash
class Constant:
    """An input of an operation that is part of the program."""

    value: Any


class Op(NamedTuple):
    """One operation.

    Attributes:
      eqn: the equation of the jaxpr.
      inputs: the numbers of the values that it reads, or constants.
      outputs: those that it makes.
      layer: the innermost that it is in.
    """

    eqn: Any
    inputs: tuple[int | Constant, ...]
    outputs: tuple[int, ...]
    layer: Layer | None

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def is_backward(self) -> bool:
        return "transpose(" in str(self.eqn.source_info.name_stack)


class Graph:
    """What a function does to its arguments.

    Args:
      function: from trees to a tree.
      arguments: of `function`. All but PRNG keys count as data.

    Attributes:
      ops: those that the results depend on, in order.
      inputs, outputs: the numbers of values, by the paths of arguments and results.
      producer: by the number of a value.
      data: the values that depend on an argument.
      random: the values that depend on drawn numbers, but not on data.
    """

    def __init__(self, function: Callable, *arguments: Any):
        self._arguments = arguments

        def fresh(*given: Any) -> Any:  # JAX keeps what it has traced of a function
            return function(*given)

        with named():
            traced, shape = jax.make_jaxpr(fresh, return_shape=True)(*arguments)
        names = [path_text(p) for p, _ in jax.tree.leaves_with_path(arguments)]
        self.inputs = {name: number for number, name in enumerate(names)}
        self._jaxpr = traced.jaxpr
        consts = [Constant(value) for value in traced.consts]
        ops, results = _flat(traced.jaxpr, consts, list(range(len(names))))
        paths = [path_text(path) for path, _ in jax.tree.leaves_with_path(shape)]
        self.outputs = dict(zip(paths, results, strict=True))
        self.ops = needed(ops, results)
        self.producer = {out: op for op in self.ops for out in op.outputs}
        self.data, self.random = self._dependent()

    def _dependent(self) -> tuple[set[int], set[int]]:
        data = {
            number
            for number, leaf in enumerate(jax.tree.leaves(self._arguments))
            if not is_key(leaf)
        }
        random: set[int] = set()
        for op in self.ops:
            read = {x for x in op.inputs if isinstance(x, int)}
            if read & data:
                data.update(op.outputs)
            elif read & random or op.name.startswith(("random_", "threefry")):
                random.update(op.outputs)
        return data, random

    @functools.cached_property
    def values(self) -> dict[int, np.ndarray]:
        """All values that are numbers, as float32, by their own."""
        return self.values_with({}, self.ops)

    def values_with(
        self, replaced: Mapping[int, int], ops: Sequence[Op]
    ) -> dict[int, np.ndarray]:
        """Those of `ops`, where a key of `replaced` has the value of another number."""
        run = functools.partial(self._run, replaced, ops)
        found = jax.jit(run)(jax.tree.leaves(self._arguments))
        return {k: np.asarray(v, np.float32) for k, v in found.items()}

    @functools.cached_property
    def entries(self) -> dict[int, np.ndarray]:
        """The entries of each value that depends on data, in order of size.

        So a transposed array is like the other.
        """
        return {k: in_order(v) for k, v in self.values.items() if k in self.data}

    def _run(
        self, replaced: Mapping[int, int], ops: Sequence[Op], leaves: list[Any]
    ) -> dict[int, Any]:
        values = dict(enumerate(leaves))
        for op in ops:
            read = [
                x.value if isinstance(x, Constant) else values[x] for x in op.inputs
            ]
            values.update(zip(op.outputs, self._apply(op.eqn, read), strict=True))
            values.update({k: values[replaced[k]] for k in op.outputs if k in replaced})
        return {number: x for number, x in values.items() if not is_key(x)}

    def _apply(self, eqn: Any, read: list[Any]) -> list[Any]:
        """The results of one equation, as a jaxpr of its own."""
        pairs = zip(eqn.invars, read, strict=True)
        given = {name: x for name, x in pairs if not isinstance(name, Literal)}
        alone = self._jaxpr.replace(
            constvars=[], invars=list(given), outvars=eqn.outvars, eqns=[eqn]
        )
        return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values())

    def constant(self, op: Op) -> float | None:
        """The one number that `op` combines data with, or None."""
        others = [x for x in op.inputs if x not in self.data]
        if len(others) != 1 or len(op.inputs) != 2:
            return None
        (other,) = others
        value = other.value if isinstance(other, Constant) else self.values.get(other)
        array = np.asarray(value, np.float64)
        return float(array.flat[0]) if array.size and np.ptp(array) == 0 else None

    def read(self, op: Op) -> list[int]:
        """The values that depend on data among the inputs of `op`."""
        return [x for x in op.inputs if isinstance(x, int) and x in self.data]


def in_order(value: Any) -> np.ndarray:
    """The entries of an array in order of size, float32; 0 for the fill of a mask."""
    flat = np.nan_to_num(np.ravel(np.asarray(value, np.float32)), nan=_FILL)
    return np.sort(np.where(np.abs(flat) < _FILL, flat, 0))


def _flat(jaxpr: Any, consts: Sequence, inputs: Sequence) -> tuple[list[Op], list]:
    """The operations of `jaxpr` without wrappings, and its results."""
    numbers = itertools.count(len(inputs))
    ops: list[Op] = []

    def inline(jaxpr: Any, consts: Sequence, inputs: Sequence, outer: Layer | None):
        given = zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True)
        known = dict(given)

        def read(x: Any) -> Any:
            return Constant(x.val) if isinstance(x, Literal) else known[x]

        for eqn in jaxpr.eqns:
            taken = [read(x) for x in eqn.invars]
            layer = layer_of(eqn) or outer
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name in _WRAPPINGS and inner is not None:
                held = [Constant(value) for value in getattr(inner, "consts", ())]
                made = inline(getattr(inner, "jaxpr", inner), held, taken, layer)
            else:
                made = [next(numbers) for _ in eqn.outvars]
                ops.append(Op(eqn, tuple(taken), tuple(made), layer))
            known.update(zip(eqn.outvars, made, strict=True))
        return [read(x) for x in jaxpr.outvars]

    results = inline(jaxpr, consts, inputs, None)
    return ops, results


def needed(ops: Sequence[Op], results: Iterable) -> list[Op]:
    """Those of `ops` that `results` depend on: nnx also traces its initialisers."""
    wanted, kept = {x for x in results if isinstance(x, int)}, []
    for op in reversed(ops):
        if wanted & set(op.outputs):
            wanted.update(x for x in op.inputs if isinstance(x, int))
            kept.append(op)
    return kept[::-1]
