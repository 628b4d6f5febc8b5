"""Sequences that count up by a fixed step: text with a rule that can be learned."""

import numpy as np

from runner.data.dataset import Dataset, MemorySplit
from runner.data.transforms import token_mask

PADDING, SYMBOLS = 0, 11  # the digits are the tokens 1 to 10


def counting(
    *, num_train: int, num_validation: int, length: int, batch_size: int
) -> Dataset:
    """Rows such as 3 5 7 9 1 ..., of random lengths, filled up with padding."""
    rng = np.random.default_rng(0)

    def split(size: int) -> MemorySplit:
        start, step = rng.integers(0, 10, (2, size, 1))
        digits = 1 + (start + step * np.arange(length + 1)) % 10
        ends = rng.integers(3, length + 2, (size, 1))
        tokens = np.where(np.arange(length + 1) < ends, digits, PADDING)
        tokens = tokens.astype(np.int32)
        return MemorySplit({"tokens": tokens[:, :-1], "next": tokens[:, 1:]})

    return Dataset(
        name="counting",
        splits={"train": split(num_train), "validation": split(num_validation)},
        classes={"tokens": SYMBOLS, "next": SYMBOLS},
        batch_size=batch_size,
        mode="device",
        transforms=[token_mask(column="next", mask="counts", padding=PADDING)],
    )
