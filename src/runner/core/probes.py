"""The probes that come with the runner: conf/probe names them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from runner.core.groups import parameter
from runner.core.step import with_small_joined
from runner.errors import ConfigError, did_you_mean

TREES = ("parameters", "gradients", "updates")


def norm_by_layer(
    parameters: Any, gradients: Any, updates: Any, *, of: Sequence[str] = TREES
) -> dict[str, dict[str, jax.Array]]:
    """The Euclidean norm of each layer's parameters, gradients and updates.

    A layer is what has the same path but for its last name: `dense_0` is of
    `dense_0/kernel` and `dense_0/bias`.

    Args:
      parameters, gradients, updates: see docs/hooks.md.
      of: some of these three.
    """
    return _norms(_chosen("norm_by_layer", of, (parameters, gradients, updates)))


def update_to_weight(parameters: Any, updates: Any) -> dict[str, jax.Array]:
    """The norm of each layer's update over that of its parameters before it.

    About 1e-3 is often taken for a good rate. Infinite or NaN where all are 0.
    """
    norms = _norms({"before": parameters, "moved": updates})
    return {layer: norms["moved"][layer] / x for layer, x in norms["before"].items()}


def histogram(
    parameters: Any,
    gradients: Any,
    updates: Any,
    *,
    of: Sequence[str] = ("gradients",),
    buckets: int = 32,
) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """How many values of each layer lie in each of some buckets of one width.

    `counts` is a list of `buckets` numbers; `low`, where the first bucket begins, is
    the least value, and `high`, where the last one ends, the largest. Values that
    aren't finite don't count.

    Args:
      parameters, gradients, updates: see docs/hooks.md.
      of: some of these three.
      buckets: their number.
    """
    if buckets < 1:
        raise ConfigError(f"histogram: buckets={buckets} must be at least 1")
    trees = _chosen("histogram", of, (parameters, gradients, updates))
    layers = {name: _by_layer(tree) for name, tree in trees.items()}
    parts = [x for each in layers.values() for x in each.values()]
    found = iter(_histograms(parts, buckets))
    return {
        name: {layer: next(found) for layer in each} for name, each in layers.items()
    }


def _histograms(
    parts: Sequence[Sequence[jax.Array]], buckets: int
) -> list[dict[str, jax.Array]]:
    """Of each part, which has some leaves. The small ones are counted together."""
    indices, bounds = [], []
    for n, leaves in enumerate(parts):
        # One minimum is both bounds: the largest value is the least of the negative.
        both = [jnp.where(jnp.isfinite(x), jnp.stack([x, -x]), jnp.inf) for x in leaves]
        least = [jnp.min(x, range(1, x.ndim), initial=jnp.inf) for x in both]
        low, negative = jnp.stack(least).min(0)
        high = -negative
        width = jnp.where(high > low, (high - low) / buckets, 1)
        bounds.append((low, high))
        for x in leaves:
            at = jnp.minimum((x - low) / width, buckets - 1).astype(jnp.int32)
            # What isn't finite lies in no bucket of any.
            at = jnp.where(jnp.isfinite(x), n * buckets + at, len(parts) * buckets)
            indices.append(at.ravel())
    # In float32 a count would stop at 2^24. On CPU, XLA would call a second thread for
    # what negative indices take.
    counts = jnp.zeros(len(parts) * buckets, jnp.int32)
    for at in with_small_joined(indices):
        counts = counts.at[at].add(1, mode="drop", wrap_negative_indices=False)
    counts = counts.reshape(len(parts), buckets)
    return [
        {"low": low, "high": high, "counts": own}
        for (low, high), own in zip(bounds, counts, strict=True)
    ]


def _norms(trees: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """The norms of the layers of trees that have the same ones, by name and layer.

    One sum is over all trees, and one root over all sums: on CPU, XLA takes about as
    long for each as for many.
    """
    layers = {name: _by_layer(tree) for name, tree in trees.items()}
    names = next(iter(layers.values()), {})
    sums = []
    for layer in names:
        alike = zip(*(leaves[layer] for leaves in layers.values()), strict=True)
        stacked = map(_stacked, alike)
        sums.append(sum(jnp.sum(x * x, range(1, x.ndim)) for x in stacked))
    norms = jnp.sqrt(jnp.stack(sums, 1)) if sums else [()] * len(trees)
    return {
        name: dict(zip(names, own, strict=True))
        for name, own in zip(trees, norms, strict=True)
    }


def _stacked(leaves: Sequence[jax.Array]) -> jax.Array:
    """`jnp.stack`; of what `_by_layer` joined, in one operation with that."""
    if leaves[0].ndim > 1:
        return jnp.stack(leaves)
    return jnp.concatenate(leaves).reshape(len(leaves), -1)


def _by_layer(tree: Any) -> Mapping[str, list[jax.Array]]:
    """The leaves of each layer, by its path; `.` is that of what has no layer.

    Small ones are one array: see `with_small_joined`.
    """
    layers: dict[str, list[jax.Array]] = defaultdict(list)
    for path, leaf in jax.tree.leaves_with_path(tree):
        layer = parameter(path).rpartition("/")[0]
        layers[layer or "."].append(jnp.asarray(leaf, jnp.float32))
    return {layer: with_small_joined(leaves) for layer, leaves in layers.items()}


def _chosen(probe: str, of: Sequence[str], trees: Sequence[Any]) -> dict[str, Any]:
    known: dict[str, Any] = dict(zip(TREES, trees, strict=True))
    for name in of:
        if name not in known:
            raise ConfigError(
                f"{probe}: of={name} must be one of {', '.join(known)}."
                + did_you_mean(name, known)
            )
    return {name: known[name] for name in of}
