"""By which cause, and in which layer, a port differs from its original."""

from typing import NamedTuple

import jax
import numpy as np

from runner.core.pipeline import TrainState
from runner.errors import few
from runner.parity.drops import other_drop
from runner.parity.graph import Graph
from runner.parity.parting import part
from runner.parity.port import Port
from runner.parity.reason import place, reason
from runner.parity.steps import relative
from runner.trees import by_path


class Finding(NamedTuple):
    """One difference.

    Attributes:
      cause: initial values, forward pass, gradient, optimizer, dropout or statistics.
      layer: where it is.
      text: what each form does.
    """

    cause: str
    layer: str
    text: str


class Point(NamedTuple):
    """A state at which forms are compared.

    Attributes:
      when: in words.
      state: the first form's.
      batch: what both get.
    """

    when: str
    state: TrainState
    batch: dict


def at(port: Port, point: Point, allowed: float) -> list[Finding]:
    """What differs at a point. What only follows from a finding is left out."""
    its = port.there(point.state)
    outputs = [
        form.outputs(state, point.batch)
        for form, state in ((port.first, point.state), (port.other, its))
    ]
    shapes = [[list(x.shape) for x in each] for each in outputs]
    if shapes[0] != shapes[1]:
        text = f"{port.first.name} gives {shapes[0]}, {port.other.name} {shapes[1]}"
        return [Finding("forward pass", "the outputs", text)]
    off = max(map(relative, outputs[1], outputs[0]))
    if off > allowed:
        return [_forward(port, point, its, _rounding(off, allowed))]
    loss, grads, held = port.first.gradients(point.state, point.batch)
    its_loss, its_grads, its_held = port.other.gradients(its, point.batch)
    off = relative(its_loss, loss)
    if off > allowed:
        return [_training(port, point, its, _rounding(off, allowed))]
    apart = port.held_apart(held, its_held)
    found = [_statistics(port, point, its, apart)] if _past(apart, allowed) else []
    apart = port.gradients_apart(grads, its_grads)
    if paths := _past(apart, allowed):
        tolerance = _rounding(max(apart.values()), allowed)
        found.append(_gradient(port, point, its, paths, tolerance))
    return found


def _past(apart: dict[str, float], allowed: float) -> list[str]:
    return [path for path, off in apart.items() if off > allowed]


def _rounding(off: float, allowed: float) -> float:
    """What two equal values within the models may differ by, if results do by `off`."""
    return max(allowed, min(1e-3, off / 100))


def _graphs(port: Port, point: Point, its: TrainState) -> list[tuple[str, Graph]]:
    """Both training steps."""
    return [
        (form.name, form.training_graph(state, point.batch))
        for form, state in ((port.first, point.state), (port.other, its))
    ]


def _forward(port: Port, point: Point, its: TrainState, tolerance: float) -> Finding:
    ours = port.first.name, port.first.evaluation_graph(point.state, point.batch)
    theirs = port.other.name, port.other.evaluation_graph(its, point.batch)
    results = ours[1].outputs.values(), theirs[1].outputs.values()
    sides = part(ours, theirs, results, tolerance)
    return Finding("forward pass", place(*sides), reason(*sides, tolerance))


def _training(port: Port, point: Point, its: TrainState, tolerance: float) -> Finding:
    """Of forms that agree in evaluation, so what differs is only done in training."""
    ours, theirs = _graphs(port, point, its)
    if dropped := other_drop(ours, theirs, tolerance):
        return Finding("dropout", *dropped)
    sides = part(
        ours, theirs, ([ours[1].outputs["0"]], [theirs[1].outputs["0"]]), tolerance
    )
    layers = [side.op.layer for side in sides if side.op and side.op.layer]
    norms = any("Norm" in layer.kind for layer in layers)
    cause = "statistics" if norms else "forward pass in training"
    return Finding(cause, place(*sides), reason(*sides, tolerance))


def _gradient(
    port: Port, point: Point, its: TrainState, paths: list[str], tolerance: float
) -> Finding:
    ours, theirs = _graphs(port, point, its)
    results = (
        [ours[1].outputs[f"1/{path}"] for path in paths],
        [theirs[1].outputs[f"1/{port.params.theirs[path]}"] for path in paths],
    )
    sides = part(ours, theirs, results, tolerance)
    text = f"that of {few(sorted(paths))} differs; {reason(*sides, tolerance)}"
    return Finding("gradient", place(*sides), text)


def _statistics(
    port: Port, point: Point, its: TrainState, apart: dict[str, float]
) -> Finding:
    """Of forms with the same loss, so only what they keep of it differs."""
    # The first of those that are far apart: which is the furthest, rounding decides.
    far = max(apart.values()) / 2
    path = next(path for path, off in apart.items() if off >= far)
    kept = [
        _momentum(form, state, point.batch, its_path)
        for form, state, its_path in (
            (port.first, point.state, path), (port.other, its, port.held.theirs[path])
        )
    ]  # fmt: skip
    names = port.first.name, port.other.name
    if abs(kept[0] - kept[1]) > 1e-3:
        text = (
            f"each step {names[0]} keeps {kept[0]:.4g} of the old value, {names[1]} "
            f"{kept[1]:.4g} (the momentum)"
        )
    else:
        text = f"{names[1]} enters another value of the batch than {names[0]}"
    return Finding("statistics", port.held.both(path, names[1]), text)


def _momentum(form, state: TrainState, batch: dict, path: str) -> float:
    """How much of an array of the model state is left after a step."""
    raised = jax.tree.map(lambda x: x + np.ones((), x.dtype), state.model_state)
    after = [
        by_path(form.gradients(state._replace(model_state=held), batch)[2])[path]
        for held in (state.model_state, raised)
    ]
    return float(np.mean(after[1] - after[0]))
