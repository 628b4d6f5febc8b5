"""What there is to say about two forms of a model without canonical initial values."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from runner.core.pipeline import TrainState
from runner.errors import few
from runner.parity.diagnosis import Finding, Point, at
from runner.parity.form import Form
from runner.parity.port import Port, Steps, port, shaken, shrunk, take
from runner.parity.start import initial_values, without_partner
from runner.parity.steps import Difference


class Ported(NamedTuple):
    """Two forms, compared.

    Attributes:
      difference: in each step; None where something has no partner.
      messages: what differs, in full sentences; empty if nothing does.
      note: how arrays were paired that have other names, for those who doubt a message;
        empty if none has.
    """

    difference: Difference | None
    messages: list[str]
    note: str


def compare_port(
    first: Form,
    other: Form,
    key: jax.Array,
    batches: Sequence[dict],
    rates: Sequence[float] | np.ndarray,
    allowed: float,
) -> Ported:
    """Copy one form's parameters to the other, and find where and why they differ.

    They are compared in the steps that training takes, and with two kinds of other
    parameters, since those that it starts from hide faults: biases are 0, and an
    epsilon is small beside the variance of a first layer.

    Args:
      first: the form whose values are copied.
      other: the one that gets them.
      key: of the initial values.
      batches: of each step.
      rates: the learning rate of each.
      allowed: the relative difference that rounding may make in one step.

    Raises:
      ConfigError: the optimizer has other states in the two.
    """
    batch = batches[0]
    both, start = port(first, other, key, batch), first.init(key)
    begin = f"{other.name} parts from {first.name}"
    messages = [
        _message(f"{begin} before step 1", each) for each in initial_values(both, key)
    ]
    if not both.is_whole:
        messages = _without_partner(both, start, batch, allowed) + messages
        return Ported(None, messages, _note(both))
    steps = take(both, start, batches, rates, allowed)
    for point in _points(steps, start, batches):
        if found := at(both, point, allowed):
            messages += [_message(f"{begin} {point.when}", each) for each in found]
            break
    for k, updates in enumerate(steps.updates):
        if found := _optimizer(both, updates, allowed):
            messages.append(_message(f"{begin} at step {k + 1}", found))
            break
    if (k := steps.past) is not None and not messages:
        worst, off = steps.difference.worst[k], steps.difference.largest[k]
        messages.append(f"{begin} at step {k + 1}, by {off:.1e}, most in {worst}")
    return Ported(steps.difference, messages, _note(both))


def _without_partner(
    port: Port, start: TrainState, batch: dict, allowed: float
) -> list[str]:
    """What there is to say without a step, which both couldn't take."""
    lacking, is_tied = without_partner(port, start, batch, allowed)
    names = port.first.name, port.other.name
    found = [] if is_tied else at(port, Point("at step 1", start, batch), allowed)
    begin = f"{names[1]} parts from {names[0]} at step 1"
    return [
        f"{' and '.join(names)}, {lacking}",
        *(_message(begin, finding) for finding in found),
    ]


def _note(port: Port) -> str:
    found = [
        f"{path} is {each.theirs[path]}"
        for each in (port.params, port.held)
        for path in each.by_order
    ]
    start = "taken for the same by last name, shape and order of use"
    return f"{start}: {few(found)}" if found else ""


def _points(steps: Steps, start: TrainState, batches: Sequence[dict]) -> list[Point]:
    """Where the forms are compared, until a difference is found."""
    k, before = steps.past or 0, f"(not in these {len(batches)} steps)"
    return [
        Point(f"at step {k + 1}", steps.state, batches[k]),
        Point(f"once parameters are noisy {before}", shaken(start, 0), batches[0]),
        Point(f"once parameters are tiny {before}", shrunk(start, 0.1), batches[0]),
    ]


def _optimizer(port: Port, updates: dict[str, float], allowed: float) -> Finding | None:
    far = [path for path, off in updates.items() if off > allowed]
    if not far:
        return None
    text = (
        f"equal gradients change {len(far)} of {len(updates)} parameters otherwise, by "
        f"up to {max(updates.values()):.1e} of their largest entry"
    )
    return Finding("optimizer", port.params.both(far[0], port.other.name), text)


def _message(begin: str, finding: Finding) -> str:
    return f"{begin} in {finding.layer}, by its {finding.cause}: {finding.text}"
