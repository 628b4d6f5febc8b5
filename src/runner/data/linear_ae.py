"""Synthetic inputs for the linear autoencoder, where the best loss is known."""

from typing import Literal

import numpy as np

from runner.data.dataset import Dataset, MemorySplit, check_memory, check_mode
from runner.errors import ConfigError


def linear_ae(
    *,
    num_train: int,
    num_validation: int,
    num_test: int,
    input_size: int,
    rank: int,
    noise: float,
    data_seed: int,
    batch_size: int,
    mode: Literal["device", "memory"],
    reshuffle: bool = True,  # as where it isn't recorded
) -> Dataset:
    """Examples of a linear model of `rank` factors plus white noise, without labels.

    `input = factors @ mixing / sqrt(rank) + noise * white`, all standard normal, so an
    input has a variance near `1 + noise**2`. `mixing` `[rank, input_size]` is shared by
    all splits. A linear autoencoder with at least `rank` hidden units is limited by
    the noise alone: its error falls to about
    `noise**2 * (input_size - hidden) / input_size`.

    Args:
        num_train: Training examples.
        num_validation: Examples to choose by.
        num_test: Examples for the end of a run.
        input_size: Length of an input.
        rank: Number of factors, at most `input_size`.
        noise: Standard deviation of the noise.
        data_seed: Fixes the examples; independent of the seed of a run.
        batch_size, reshuffle: See `Dataset`.
        mode: "device" or "memory"; there is nothing on disk to stream.

    Returns:
        A data set with float32 inputs `[input_size]`.

    Raises:
        ConfigError: an argument is out of range.
    """
    check_mode(mode, ("device", "memory"))
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"data.num_{name}={size} must be at least 1.")
    if not 1 <= rank <= input_size:
        raise ConfigError(
            f"data.rank={rank} must be from 1 to data.input_size={input_size}."
        )
    if noise < 0:
        raise ConfigError(f"data.noise={noise} must not be negative.")

    check_memory(
        f"data.num_train={num_train} with data.num_validation={num_validation}, "
        f"data.num_test={num_test} and data.input_size={input_size}",
        8 * input_size * sum(sizes.values()),
        purpose=" to generate",
    )
    rng = np.random.default_rng(data_seed)
    mixing = rng.standard_normal((rank, input_size)) / np.sqrt(rank)

    def split(size: int) -> MemorySplit:
        factors = rng.standard_normal((size, rank))
        white = rng.standard_normal((size, input_size))
        return MemorySplit(
            {"input": (factors @ mixing + noise * white).astype(np.float32)}
        )

    return Dataset(
        name="linear_ae",
        splits={name: split(size) for name, size in sizes.items()},
        classes={},
        batch_size=batch_size,
        mode=mode,
        reshuffle=reshuffle,
    )
