"""The data of DeepOBS' stochastic quadratics: points around zero, from fixed seeds.

Schneider et al., 2019: https://arxiv.org/abs/1903.05499
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from runner.data.dataset import (
    Dataset,
    MemorySplit,
    check_memory,
    check_mode,
    check_splits,
)
from runner.errors import ConfigError


def quadratic(
    *,
    splits: Mapping[str, Mapping[str, int]],
    size: int,
    noise: float,
    batch_size: int,
    mode: Literal["device", "memory"],
    reshuffle: bool = True,  # as where it isn't recorded
) -> Dataset:
    """Independent normal numbers with mean 0.

    Each split is drawn by NumPy's `RandomState`, whose numbers never change, so two
    splits of one seed begin alike.

    Args:
        splits: The `seed` of each split and its number of `examples`.
        size: Length of an input.
        noise: Standard deviation of each of its numbers.
        batch_size, reshuffle: See `Dataset`.
        mode: "device" or "memory"; there is nothing on disk to stream.

    Returns:
        A data set with float32 inputs `[size]`.

    Raises:
        ConfigError: an argument is out of range.
    """
    check_mode(mode, ("device", "memory"))
    check_splits(splits)
    if size < 1:
        raise ConfigError(f"data.size={size} must be at least 1.")
    if noise < 0:
        raise ConfigError(f"data.noise={noise} must not be negative.")
    return Dataset(
        name="quadratic",
        splits={
            name: _drawn(name, split, size, noise) for name, split in splits.items()
        },
        classes={},
        batch_size=batch_size,
        mode=mode,
        reshuffle=reshuffle,
    )


def _drawn(name: str, split: Mapping[str, int], size: int, noise: float) -> MemorySplit:
    if split.keys() != {"seed", "examples"}:
        raise ConfigError(
            f"data.splits.{name}={dict(split)} must have a seed and a number of "
            "examples, and nothing else."
        )
    for key, least, most in (("seed", 0, 2**32 - 1), ("examples", 1, 2**31 - 1)):
        value = split[key]
        if type(value) is not int or not least <= value <= most:
            raise ConfigError(
                f"data.splits.{name}.{key}={value} must be a whole number from {least} "
                f"to {most}."
            )
    check_memory(
        f"data.splits.{name}.examples={split['examples']} with data.size={size}",
        8 * size * split["examples"],
        purpose=" to generate",
    )
    rng = np.random.RandomState(split["seed"])
    drawn = rng.normal(0.0, noise, (split["examples"], size))
    return MemorySplit({"input": drawn.astype(np.float32)})
