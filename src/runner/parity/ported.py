"""What there is to say about two forms of a model without canonical initial values."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from runner.parity.diagnosis import Finding, Point, at
from runner.parity.form import Form
from runner.parity.port import port, shaken, shrunk, take
from runner.parity.start import initial_values, without_partner
from runner.parity.steps import Difference


class Ported(NamedTuple):
    """Two forms, compared.

    Attributes:
      difference: in each step; None where something has no partner.
      messages: what differs, in full sentences; empty if nothing does.
    """

    difference: Difference | None
    messages: list[str]


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
    both = port(first, other, key, batch)
    start = first.init(key)
    begin = f"{other.name} parts from {first.name}"
    messages = [
        _message(f"{begin} before step 1", finding)
        for finding in initial_values(both, key)
    ]
    if lacking := without_partner(both, start, batch, allowed):
        found = (
            [] if "Untied" in lacking else at(both, Point("", start, batch), allowed)
        )
        messages += [_message(f"{begin} at step 1", finding) for finding in found]
        return Ported(None, [f"{first.name} and {other.name}, {lacking}", *messages])
    steps = take(both, start, batches, rates)
    past = np.flatnonzero(steps.difference.largest > allowed)
    k = int(past[0]) if past.size else 0
    nowhere = f"in none of {len(batches)} steps, but with"
    points = [
        Point(f"at step {k + 1}", steps.states[k], batches[k]),
        Point(f"{nowhere} noise on all parameters,", shaken(start, 0), batch),
        Point(f"{nowhere} parameters of a tenth", shrunk(start, 0.1), batch),
    ]
    for point in points:
        if found := at(both, point, allowed):
            messages += [_message(f"{begin} {point.when}", each) for each in found]
            break
    if far := [path for path, off in steps.updates.items() if off > allowed]:
        what = Finding(
            "optimizer",
            both.params.both(far[0], other.name),
            f"from equal gradients it changes {len(far)} of {len(steps.updates)} "
            f"parameters otherwise, by up to {max(steps.updates.values()):.1e} of their "
            "largest entry",
        )
        messages.append(_message(f"{begin} at step {k + 1}", what))
    if past.size and not messages:
        worst, off = steps.difference.worst[k], steps.difference.largest[k]
        messages.append(f"{begin} at step {k + 1}, by {off:.1e}, most in {worst}")
    return Ported(steps.difference, messages)


def _message(begin: str, finding: Finding) -> str:
    return f"{begin} in {finding.layer}, by its {finding.cause}: {finding.text}"
