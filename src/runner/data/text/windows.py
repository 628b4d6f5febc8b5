"""Windows of tokens, each with the tokens that follow its own."""

import dataclasses
import mmap

import numpy as np

from runner.data.dataset import MemorySplit
from runner.data.transforms import Transform

# Columns before `next_tokens`: `text` [block_size + 1], and the number of predictions
# in it, which is smaller in the last window of a text.
TEXT, SIZE = "text", "size"


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a text of `tokens` is cut: a window begins at each multiple of `stride`.

    A window predicts `length` tokens, the last one of a split maybe fewer. With
    `stride == length` each token but the first is predicted once; with `stride == 1`
    every place where a whole window fits is the beginning of one.
    """

    tokens: int
    length: int
    stride: int

    def __len__(self) -> int:
        if self.stride == 1:
            return max(0, self.tokens - self.length)
        return max(0, -(-(self.tokens - 1) // self.stride))

    def in_memory(self, tokens: np.ndarray) -> MemorySplit:
        """All windows of `tokens`: views of one array, so they take no more memory."""
        count = len(self)
        size = np.full(count, self.length, np.int32)
        if count:
            whole = (count - 1) * self.stride + self.length + 1
            lacking = max(0, whole - self.tokens)
            size[-1] -= lacking
            if lacking:  # which takes a copy
                tokens = np.pad(tokens, (0, lacking), "edge")
        views = np.lib.stride_tricks.sliding_window_view(tokens, self.length + 1)
        return MemorySplit({TEXT: views[:: self.stride][:count], SIZE: size})


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped:
    """The windows of tokens in a mapped file, from byte `start` on."""

    file: mmap.mmap
    dtype: np.dtype
    start: int
    cut: Cut

    def __len__(self) -> int:
        return len(self.cut)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        count, length = self.cut.tokens, self.cut.length
        tokens = np.frombuffer(self.file, self.dtype, count, self.start)
        first = indices.astype(np.int64) * self.cut.stride
        at = np.minimum(first[:, None] + np.arange(length + 1), count - 1)
        size = np.minimum(length, count - 1 - first).astype(np.int32)
        rows = {TEXT: tokens[at], SIZE: size}
        # What a process has read of a mapped file counts as its memory until it is
        # given back, and in the end that would be all of it.
        self.file.madvise(mmap.MADV_DONTNEED)
        return rows


def next_tokens(length: int, end: int | None) -> Transform:
    """Columns `[length]` from the windows: `tokens`, those that come `next`, `mask`.

    Args:
        length: Of a window.
        end: The token that ends a document. What follows it is another document, which
            nobody can predict, so `mask`, float32, is 0 there as in padding, else 1.
    """

    def transform(batch, key, train):
        import jax.numpy as jnp

        text = batch[TEXT].astype(jnp.int32)
        tokens = text[:, :-1]
        counts = jnp.arange(length)[None] < batch[SIZE][:, None]
        if end is not None:
            counts = counts & (tokens != end)
        mask = counts.astype(jnp.float32)
        others = {k: v for k, v in batch.items() if k not in (TEXT, SIZE)}
        return others | {"tokens": tokens, "next": text[:, 1:], "mask": mask}

    return transform
