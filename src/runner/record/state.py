"""The state that a finished run leaves in its folder: one safetensors file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from runner.record.files import write_bytes
from runner.trees import path_text

FILE = "state.safetensors"


def save_state(folder: Path, state: Any) -> None:
    """Write a tree of NumPy arrays, named as `params/dense_0/kernel` and so on.

    Raises:
      OSError: the disk is full or the folder can't be written.
    """
    from safetensors.numpy import save

    named = {
        name: np.ascontiguousarray(leaf)
        for name, leaf in zip(_names(state), jax.tree.leaves(state), strict=True)
    }
    write_bytes(folder / FILE, save(named))


def load_state(folder: Path) -> dict[str, np.ndarray]:
    """The arrays that `save_state` has written to `folder`, by their names.

    Raises:
      OSError: there is no such file.
      ValueError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load((folder / FILE).read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{folder / FILE} is damaged: {error}") from error


def restored(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree whose leaves have the names and the shapes of those of `like`.

    Raises:
      ValueError: names or shapes differ.
    """
    names = _names(like)
    leaves, structure = jax.tree.flatten(like)
    shapes = {name: x.shape for name, x in zip(names, leaves, strict=True)}
    found = {name: x.shape for name, x in arrays.items()}
    if shapes != found:
        odd = sorted(n for n in shapes | found if shapes.get(n) != found.get(n))
        raise ValueError(f"the state has other arrays than the model: {', '.join(odd)}")
    return jax.tree.unflatten(structure, [arrays[name] for name in names])


def _names(tree: Any) -> list[str]:
    return [path_text(path) for path, _ in jax.tree.leaves_with_path(tree)]
