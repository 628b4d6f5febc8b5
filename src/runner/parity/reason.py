"""Why two forms of a model begin to differ, as far as their operations show it."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from runner.parity.graph import Graph, Op, in_order
from runner.parity.layers import Layer
from runner.parity.parting import Side, close

_ACTIVATIONS: dict[str, Callable] = {
    "gelu, exact": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu, approximate": lambda x: jax.nn.gelu(x, approximate=True),
    **{
        name: getattr(jax.nn, name)
        for name in ("relu", "relu6", "silu", "elu", "selu", "celu", "softplus",
                     "sigmoid", "tanh", "leaky_relu", "hard_silu", "squareplus", "mish")
    },
}  # fmt: skip
_WORDS = {
    "add": "adds",
    "sub": "subtracts",
    "mul": "multiplies by",
    "div": "divides by",
    "max": "takes at least",
    "integer_pow": "takes the power",
}


def reason(ours: Side, theirs: Side, tolerance: float) -> str:
    """A sentence on what one form does and the other doesn't."""
    return (
        _other_constant(ours, theirs, tolerance)
        or _other_constant(theirs, ours, tolerance)
        or _other_activation(ours, theirs, tolerance)
        or _scale(ours, theirs, tolerance)
        or f"{_computes(ours)}, {_computes(theirs)}"
    )


def place(ours: Side, theirs: Side) -> str:
    """The layer in which they part, and what the other form calls it."""
    first, second = (str(s.op.layer or "") if s.op else "" for s in (ours, theirs))
    if not first or not second:
        return first or second or "a function of its own"
    if first == second:
        return first
    return f"{first}, {theirs.name}'s {second}"


def _computes(side: Side) -> str:
    if side.op is None:
        return f"{side.name} doesn't"
    read = [made_by(side.graph, x) for x in side.graph.read(side.op)]
    return f"{side.name} computes `{side.op.name}` of {' and '.join(read)}"


def made_by(graph: Graph, number: int) -> str:
    """What a value is, in words."""
    op = graph.producer.get(number)
    if op is None:
        name = next(k for k, v in graph.inputs.items() if v == number)
        return name.partition("/")[2] or name
    is_composite = op.layer is None or any(
        _inside(other.layer, op.layer) for other in graph.ops
    )
    where = f" in {op.layer}" if op.layer else ""
    return f"the `{op.name}`{where}" if is_composite else f"the result of {op.layer}"


def _inside(inner: Layer | None, outer: Layer) -> bool:
    start = outer.path + "/" if outer.path else ""
    return inner is not None and inner != outer and inner.path.startswith(start)


def _other_constant(ours: Side, theirs: Side, tolerance: float) -> str | None:
    """The same operation of the same value with another number."""
    if ours.op is None or (number := _number(ours.graph, ours.op)) is None:
        return None
    (value,) = (ours.graph.entries[x] for x in ours.graph.read(ours.op))
    for op in theirs.graph.ops:
        other = _number(theirs.graph, op) if op.name == ours.op.name else None
        if other is None or np.isclose(other, number, rtol=1e-5, atol=0):
            continue
        (its,) = (theirs.graph.entries[x] for x in theirs.graph.read(op))
        if close(value, its, tolerance):
            if ours.op.name == "add" and _feeds_root(ours.graph, ours.op):
                word, of = "adds an epsilon of", ""
            else:
                word = _WORDS.get(ours.op.name, f"has `{ours.op.name}` with")
                of = f" ({made_by(ours.graph, ours.graph.read(ours.op)[0])})"
            return f"{ours.name} {word} {number:.4g}, {theirs.name} {other:.4g}{of}"
    return None


def _number(graph: Graph, op: Op) -> float | None:
    if op.name == "integer_pow":
        return float(op.eqn.params["y"])
    return graph.constant(op) if len(graph.read(op)) == 1 else None


def _feeds_root(graph: Graph, op: Op) -> bool:
    readers = (other for other in graph.ops if set(op.outputs) & set(other.inputs))
    return any(reader.name in ("rsqrt", "sqrt") for reader in readers)


def _scale(ours: Side, theirs: Side, tolerance: float) -> str | None:
    """The same value but for a factor, where one of them first differs."""
    for one, other in ((ours, theirs), (theirs, ours)):
        if one.op is None:
            continue
        value = one.graph.entries[one.op.outputs[0]]
        for number in _near(one, other):
            its = other.graph.entries[number]
            if its.size != value.size or not np.any(its) or not np.any(value):
                continue
            factor = np.abs(value).max() / np.abs(its).max()
            if abs(factor - 1) > tolerance and close(value, factor * its, tolerance):
                what = made_by(other.graph, number)
                return (
                    f"{one.name} has {factor:.4g}{_as_root(factor)} times what "
                    f"{other.name} has, {what}: one of them lacks this scale"
                )
    return None


def _near(one: Side, other: Side) -> Iterator[int]:
    """Values of `other` that may be that of `one` but for a factor."""
    assert one.op is not None
    if other.op is not None:
        yield from other.op.outputs
    yield from (x for x in other.graph.data if x in other.graph.values)


def _as_root(factor: float) -> str:
    for sign, text in ((1, "sqrt({})"), (-1, "1/sqrt({})")):
        square = factor ** (2 * sign)
        if 1.5 < square < 1e5 and abs(square - round(square)) < 1e-3 * square:
            return f" = {text.format(round(square))}"
    return ""


def _other_activation(ours: Side, theirs: Side, tolerance: float) -> str | None:
    """Two functions of the same value, both known."""
    if ours.op is None:
        return None
    for number in ours.graph.read(ours.op):
        value = ours.graph.values[number].astype(np.float32)
        applied = {k: in_order(f(value)) for k, f in _ACTIVATIONS.items()}
        names = [
            [k for k, v in applied.items() if _has(side, v, tolerance)]
            for side in (ours, theirs)
        ]
        alone = [[k for k in names[i] if k not in names[1 - i]] for i in (0, 1)]
        if len(alone[0]) == len(alone[1]) == 1:
            return (
                f"{ours.name} applies {alone[0][0]}, {theirs.name} {alone[1][0]}, to "
                f"{made_by(ours.graph, number)}"
            )
    return None


def _has(side: Side, value: np.ndarray, tolerance: float) -> bool:
    return any(close(value, one, tolerance) for one in side.graph.entries.values())
