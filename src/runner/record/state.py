"""The state that a finished run leaves in its folder: one safetensors file."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from runner.record.files import STATE, write_bytes
from runner.trees import by_path, is_key


def save_state(folder: Path, state: Any) -> str:
    """Write a tree of arrays on the host, named as `params/dense_0/kernel` and so on.

    Returns:
      its checksum, which the file has too.

    Raises:
      OSError: the disk is full or the folder can't be written.
    """
    from safetensors.numpy import save

    named = arrays_of(state)
    digest = _digest(named)
    write_bytes(folder / STATE, save(named, {"sha256": digest}))
    return digest


def arrays_of(state: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree, by their names. Of PRNG keys it is their words."""
    return {path: _plain(leaf) for path, leaf in by_path(state).items()}


def _plain(leaf: Any) -> np.ndarray:
    # Not `ascontiguousarray`, which makes a vector of a single number.
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf, order="C")


def _like(wanted: Any, array: np.ndarray) -> Any:
    if not is_key(wanted):
        return array
    kind = jax.random.key_impl(jax.numpy.empty((), wanted.dtype))
    return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=kind)


def arrays_in(
    path: Path, data: bytes, foreign: bool = False, own: str | None = None
) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file, by their names.

    Args:
      path: of the file, for messages.
      data: all that is in it.
      foreign: whether another program may have written it, without a checksum.
      own: the checksum that it must have, if known.

    Raises:
      ValueError: it is damaged, or has other arrays than its checksum, if any, says.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        named = load(data)
        size = int.from_bytes(data[:8], "little")
        # Earlier versions of runner saved none.
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__")
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if foreign and "sha256" not in (metadata or {}):
        return named
    if metadata is not None and metadata != {"sha256": _digest(named)}:
        raise ValueError(f"{path} is damaged: it doesn't have its recorded checksum")
    if own is not None and metadata != {"sha256": own}:
        raise ValueError(f"{path} isn't the state that the run ended with")
    return named


def _digest(named: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, array in sorted(named.items()):
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def restored(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree whose leaves have the names and the shapes of those of `like`.

    Where `like` has PRNG keys, so has the tree.

    Raises:
      ValueError: names or shapes differ.
    """
    wanted = by_path(like)
    shapes = {
        path: jax.eval_shape(jax.random.key_data, x).shape if is_key(x) else x.shape
        for path, x in wanted.items()
    }
    found = {name: x.shape for name, x in arrays.items()}
    if shapes != found:
        odd = sorted(n for n in shapes | found if shapes.get(n) != found.get(n))
        raise ValueError(f"the state has other arrays than the model: {', '.join(odd)}")
    leaves = [_like(x, arrays[name]) for name, x in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
