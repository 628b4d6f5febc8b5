"""Where two forms of a model drop values at random, and how many of them."""

from typing import NamedTuple

import numpy as np

from runner.errors import few
from runner.parity.graph import Constant, Graph, Op, in_order, needed
from runner.parity.parting import close
from runner.parity.reason import made_by


class Drop(NamedTuple):
    """One dropout.

    Attributes:
      layer: that it is in.
      source: the number of the value that is dropped from.
      value: the entries of that value with all dropouts off, in order of size.
      rate: the share that is dropped.
      draws: how many numbers are drawn for it.
    """

    layer: str
    source: int
    value: np.ndarray
    rate: float
    draws: int

    def is_in(self, others: list["Drop"], tolerance: float) -> bool:
        """Whether one of `others` does the same."""
        return any(
            self.draws == one.draws and self.is_like(one, tolerance) for one in others
        )

    def is_like(self, other: "Drop", tolerance: float) -> bool:
        """Whether it drops as much in the same place."""
        is_equal = close(self.value, other.value, tolerance)
        return is_equal and abs(self.rate - other.rate) < 1e-6


def drops(graph: Graph) -> tuple[list[Drop], float]:
    """The dropouts of a training step's forward pass, and the loss without them.

    Their places are known by the values there with all of them off. The others would
    differ after the first that does.
    """
    ends: list[tuple[Op, int, int]] = []  # with a mask and what is dropped from
    for op in graph.ops:
        masks = [x for x in op.inputs if isinstance(x, int) and x in graph.random]
        read = graph.read(op)
        may_end = op.name in ("mul", "select_n") and len(read) == len(masks) == 1
        if may_end and not op.is_backward:
            ends.append((op, masks[0], _source(graph, read[0])))
    loss = graph.outputs["0"]
    assert isinstance(loss, int)  # not a constant
    ops = needed(graph.ops, [loss, *(op.outputs[0] for op, *_ in ends)])
    values = graph.values_with({op.outputs[0]: source for op, _, source in ends}, ops)
    found = []
    for op, mask, source in ends:
        if rate := _rate(graph, values, op, mask, source):
            value, draws = in_order(values[source]), _draws(graph, mask)
            found.append(Drop(str(op.layer), source, value, rate, draws))
    return found, float(values[loss])


def _source(graph: Graph, number: int) -> int:
    """The value before it is scaled to make up for what is dropped."""
    op = graph.producer.get(number)
    if op is None or op.name not in ("mul", "div") or len(graph.read(op)) != 1:
        return number
    return number if any(x in graph.random for x in op.inputs) else graph.read(op)[0]


def _rate(
    graph: Graph, values: dict[int, np.ndarray], op: Op, mask: int, source: int
) -> float:
    """The share that a dropout drops, exactly if it scales what it keeps.

    0 for noise of another kind.
    """
    if np.unique(values[mask]).size > 2:
        return 0.0
    scale = np.max(values[mask])
    (scaled,) = graph.read(op)
    if scaled != source:
        by = graph.producer[scaled]
        (factor,) = (x for x in by.inputs if x != source)
        number = factor.value if isinstance(factor, Constant) else values[factor]
        scale = np.max(number) if by.name == "mul" else 1 / np.max(number)
    return float(1 - 1 / scale if scale > 1 else np.mean(values[mask] == 0))


def _draws(graph: Graph, mask: int) -> int:
    """The size of a mask before it is broadcast."""
    op = graph.producer[mask]
    if op.name == "broadcast_in_dim" and isinstance(op.inputs[0], int):
        return _draws(graph, op.inputs[0])
    return op.eqn.outvars[0].aval.size


def other_drop(
    ours: tuple[str, Graph], theirs: tuple[str, Graph], tolerance: float
) -> tuple[str, str] | None:
    """The first dropout of one form that the other hasn't, or has with another rate.

    Returns:
      the layer and a sentence; None if they have the same.
    """
    (mine, loss), (its, its_loss) = (drops(graph) for _, graph in (ours, theirs))
    first, second = (
        next((drop for drop in own if not drop.is_in(others, tolerance)), None)
        for own, others in ((mine, its), (its, mine))
    )
    is_masks = bool(first and second and first.is_like(second, tolerance))
    layers, texts = [], []
    for (name, graph), drop in ((ours, first), (theirs, second)):
        if drop is not None:
            layers.append(f"{name}'s {drop.layer}" if layers else drop.layer)
            mask = f" by a mask of {drop.draws}" if is_masks else ""
            what = made_by(graph, drop.source)
            texts.append(f"{name} drops {drop.rate:.3g} of {what}{mask}")
    if layers:
        lacking = theirs[0] if first else ours[0]
        texts += [] if first and second else [f"{lacking} doesn't"]
        return ", ".join(layers), ", ".join(texts)
    if mine and np.isclose(loss, its_loss, rtol=tolerance):
        return few(drop.layer for drop in mine), (
            "both drop the same share of the same values, but from arrays of another "
            "layout, so that they can only be compared without dropout"
        )
    return None
