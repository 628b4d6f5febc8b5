"""Two forms of a model that share no initial values, as a port and its original."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.core.pipeline import TrainState, same_dtypes
from runner.parity.form import Form
from runner.parity.partners import Partners, pair
from runner.parity.steps import Difference, relative
from runner.trees import by_path

# A gradient that should be 0, such as that of a bias before a norm, is rounding. So a
# gradient counts relative to its own largest entry, or to this share of the largest.
_FLOOR = 0.01
# That of many terms of both signs has more rounding than they.
_SUMS = 10


class Port(NamedTuple):
    """A form, the other one, and which of their arrays are the same.

    Attributes:
      first, other: the forms.
      like: a state of the other form, for what has no partner.
      params, held: the partners among the parameters and in the model state.
    """

    first: Form
    other: Form
    like: TrainState
    params: Partners
    held: Partners

    @property
    def is_whole(self) -> bool:
        """Whether each array has a partner."""
        each = self.params, self.held
        return not any(one.alone or one.alone_there for one in each)

    def there(self, state: TrainState) -> TrainState:
        """The first form's `state`, without its optimizer's, in the other form."""
        params = self.params.moved(state.params, self.like.params)
        held = self.held.moved(state.model_state, self.like.model_state)
        return TrainState(params, held, ())

    def gradients_apart(self, ours: Any, theirs: Any) -> dict[str, float]:
        """The relative difference of each gradient, in multiples of what sums round."""
        ours, theirs = by_path(ours), by_path(theirs)
        least = _FLOOR * max(np.abs(g).max(initial=0) for g in ours.values())
        found = {}
        for path, there in self.params.theirs.items():
            a, b = ours[path], theirs[there]
            scale = max(np.abs(a).max(initial=0), least, 1e-30)
            found[path] = float(np.abs(a - b).max(initial=0) / scale / _SUMS)
        return {k: v if np.isfinite(v) else np.inf for k, v in found.items()}

    def held_apart(self, ours: Any, theirs: Any) -> dict[str, float]:
        """The relative difference of each array in the model states."""
        ours, theirs = by_path(ours), by_path(theirs)
        return {a: relative(theirs[b], ours[a]) for a, b in self.held.theirs.items()}


def port(first: Form, other: Form, key: jax.Array, batch: dict) -> Port:
    """Pair the arrays of two forms, in the states that they start from."""
    states = first.init(key), other.init(key)

    @functools.cache
    def used() -> list[list[str]]:
        pairs = zip((first, other), states, strict=True)
        return [form.order_of_use(state, batch) for form, state in pairs]

    def partners(part: str) -> Partners:
        ours, theirs = (by_path(getattr(state, part)) for state in states)

        def order() -> tuple[Sequence[str], Sequence[str]]:
            start = f"{part}/"
            ours, theirs = ([p.removeprefix(start) for p in paths] for paths in used())
            return ours, theirs

        return pair(ours, theirs, order)

    return Port(first, other, states[1], partners("params"), partners("model_state"))


class Steps(NamedTuple):
    """The steps that both forms took from the first form's states.

    Attributes:
      difference: in each of them.
      updates: for each of them, the difference of each parameter's update.
      past: the first step, from 0, of a larger difference than allowed, or None.
      state: the first form's before that step, or before the first one.
    """

    difference: Difference
    updates: list[dict[str, float]]
    past: int | None
    state: TrainState


def take(
    port: Port,
    start: TrainState,
    batches: Sequence[dict],
    rates: Iterable,
    allowed: float,
) -> Steps:
    """Take each step in both forms, from the state that the first has reached."""
    state, kept, past = start, start, None
    rows, updates = [], []
    for k, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
        loss, steep, off, held, new = _step(port, state, batch, rate)
        apart = {path: max(steep[path], off[path]) for path in off} | held
        worst = max(apart, key=apart.__getitem__)
        if past is None and max(loss, apart[worst]) > allowed:
            past, kept = k, state
        rows.append((loss, max(steep.values()), max([*(off | held).values()]), worst))
        updates.append(off)
        state = new
    losses, grads, params, worst = zip(*rows, strict=True)
    found = Difference(np.array(losses), np.array(grads), np.array(params), list(worst))
    return Steps(found, updates, past, kept)


def _step(port: Port, state: TrainState, batch: dict, rate: Any) -> tuple:
    """The differences of loss, gradients, updates and model state; the new state.

    Both optimizers get the first form's gradients, since Adam, say, makes whole steps
    of gradients that are rounding.
    """
    first, other, like = port.first, port.other, port.like
    opt_state = port.params.moved(state.opt_state, like.opt_state)
    its = port.there(state)._replace(opt_state=opt_state)
    loss, grads, held = first.gradients(state, batch)
    its_loss, its_grads, its_held = other.gradients(its, batch)
    new = first.update(state, grads, loss, rate, batch)
    given = port.params.moved(grads, like.params)
    its_params = by_path(other.update(its, given, loss, rate, batch).params)
    ours = by_path(new.params)
    return (
        relative(its_loss, loss),
        port.gradients_apart(grads, its_grads),
        {a: relative(its_params[b], ours[a]) for a, b in port.params.theirs.items()},
        port.held_apart(held, its_held),
        same_dtypes(new._replace(model_state=held), state),
    )


def shaken(state: TrainState, seed: int) -> TrainState:
    """`state` with noise, so that no bias is 0 and no scale 1."""
    draw = np.random.default_rng(seed).standard_normal

    def noisy(x: Any) -> Any:
        return x + (0.5 * np.std(x) or 0.1) * draw(x.shape)

    def positive(x: Any) -> Any:  # it may be a variance
        return x + 0.1 * np.abs(draw(x.shape))

    return _with_floats(state, noisy, positive)


def shrunk(state: TrainState, factor: float) -> TrainState:
    """`state` with all numbers smaller, so that an epsilon counts."""
    return _with_floats(state, lambda x: factor * x, lambda x: factor * x)


def _with_floats(state: TrainState, param: Callable, held: Callable) -> TrainState:
    """`state` with what functions make of its parameters and of its model state."""

    def changed(change: Callable, tree: Any) -> Any:
        return jax.tree.map(
            lambda x: change(x).astype(x.dtype) if x.dtype.kind == "f" else x, tree
        )

    params, model_state = changed(param, state.params), changed(held, state.model_state)
    return state._replace(params=params, model_state=model_state)
