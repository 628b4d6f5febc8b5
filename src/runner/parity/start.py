"""How two forms of a model start: what they have, and what they draw."""

from collections.abc import Iterator

import jax
import numpy as np

from runner.core.pipeline import TrainState
from runner.parity.diagnosis import Finding
from runner.parity.port import Port, shaken
from runner.parity.steps import relative
from runner.trees import by_path

_SEEDS = 8  # of initial values
_SIGMAS = 6  # by which a spread differs


def without_partner(
    port: Port, state: TrainState, batch: dict, allowed: float
) -> tuple[str, bool]:
    """The message that names all arrays that have no partner.

    Args:
      port: the forms.
      state: the first one's.
      batch: what both get, to see whether weights are tied in one of them.
      allowed: what rounding may make of the outputs.

    Returns:
      the message, and whether weights are tied in one form only.
    """
    parts = []
    for paths, tree, form in _alone(port, state):
        if paths:
            arrays = by_path(tree)
            each = ", ".join(f"{p} {list(arrays[p].shape)}" for p in paths)
            parts.append(f"{form} has {each}")
    text, found = "; ".join(parts), _tied(port, state, batch, allowed)
    return f"without a partner: {text}{found and f'. {found}'}", bool(found)


def _alone(port: Port, state: TrainState) -> Iterator[tuple[list[str], dict, str]]:
    """Paths without a partner, the tree that they are in, and the form's name."""
    names = port.first.name, port.other.name
    for pairs, mine, its in (
        (port.params, state.params, port.like.params),
        (port.held, state.model_state, port.like.model_state),
    ):
        yield pairs.alone, mine, names[0]
        yield pairs.alone_there, its, names[1]


def _tied(port: Port, state: TrainState, batch: dict, allowed: float) -> str:
    """A sentence on a parameter without a partner that the other form ties to another.

    That is so if the outputs agree once it has the values of the other one.
    """
    kept = {path: by_path(state.params)[path] for path in port.params.alone}
    mine = shaken(state, 0)
    mine = mine._replace(params=_with(mine.params, kept))
    its = port.there(mine)
    ours = {there: path for path, there in port.params.theirs.items()}
    for paths, own, form, tying, names in (
        (port.params.alone, mine, port.first, port.other, port.params.theirs),
        (port.params.alone_there, its, port.other, port.first, ours),
    ):
        arrays = by_path(own.params)
        for path in paths:
            for other, there in names.items():
                for value in (arrays[other], arrays[other].T):
                    if value.shape != arrays[path].shape:
                        continue
                    tried = own._replace(params=_with(own.params, {path: value}))
                    pair = (tried, its) if form is port.first else (mine, tried)
                    if _agree(port, *pair, batch, allowed):
                        return (
                            f"Untied weights: {tying.name} uses {there} for "
                            f"it too, {form.name} has {path} of its own"
                        )
    return ""


def _with(params: dict, values: dict[str, np.ndarray]) -> dict:
    replaced = by_path(params) | values
    return jax.tree.unflatten(jax.tree.structure(params), list(replaced.values()))


def _agree(
    port: Port, ours: TrainState, theirs: TrainState, batch: dict, allowed: float
) -> bool:
    outputs = port.first.outputs(ours, batch), port.other.outputs(theirs, batch)
    return max(map(relative, outputs[1], outputs[0])) <= allowed


def initial_values(port: Port, key: jax.Array) -> Iterator[Finding]:
    """Parameters whose initialisers draw from other distributions.

    Their means and standard deviations over several seeds are compared.
    """
    keys = jax.random.split(key, _SEEDS)
    ours, theirs = (
        [by_path(form.init(key).params) for key in keys]
        for form in (port.first, port.other)
    )
    for path, there in port.params.theirs.items():
        a = np.stack([one[path] for one in ours]).astype(np.float64)
        b = np.stack([one[there] for one in theirs]).astype(np.float64)
        spread = max(a.std(), b.std())
        error = _SIGMAS * spread / np.sqrt(a.size) + 1e-6 * np.abs(a).max(initial=0)
        if abs(a.std() - b.std()) > error or abs(a.mean() - b.mean()) > 1.5 * error:
            texts = (
                f"{form.name} draws it with mean {x.mean():.3g} and standard deviation "
                f"{x.std():.3g}"
                for form, x in ((port.first, a), (port.other, b))
            )
            name = port.params.both(path, port.other.name)
            yield Finding("initial values", name, ", ".join(texts))
