"""Splits of a prepared TFDS data set, read without TensorFlow."""

import dataclasses
import functools
import itertools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.data.batches import in_memory
from runner.data.bits import as_32_bits
from runner.data.dataset import MemorySplit
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """A split read from disk; two of the same folder, split and features are equal."""

    folder: str
    split: str
    columns: tuple[tuple[str, str], ...]
    source: Any = dataclasses.field(compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        keys = indices.tolist()
        try:
            examples = self.source.__getitems__(keys)
        except TypeError:  # the sources of tfds.testing.mock_data lack this
            examples = [self.source[key] for key in keys]
        rows = {}
        for name, feature in self.columns:
            rows[name] = np.stack([example[feature] for example in examples])
            if rows[name].dtype == np.int64:  # as TFDS has labels
                what = f"data.splits: {self.split} of {self.folder} has {feature}"
                rows[name] = as_32_bits(what, rows[name])
        return rows


# Reading costs 0.1 ms an example, so the jobs of a sweep that share a process share
# the columns of the last three splits, that is, one data set.
@functools.lru_cache(maxsize=3)
def load(split: TfdsSplit) -> MemorySplit:
    loaded = in_memory(split)
    for column in loaded.columns.values():
        column.flags.writeable = False
    return loaded


def open_split(
    builder: "tfds.core.DatasetBuilder",
    key: str,
    split: str,
    columns: dict[str, str],
) -> TfdsSplit:
    open_source: Any = builder.as_data_source  # its decorator hides its signature
    try:
        source = open_source(split=split)
        count = len(source)
    except NotImplementedError as error:  # another file format
        raise ConfigError(
            f"{builder.data_dir} can't be read without TensorFlow: {error} Prepare it "
            "as array_record, or choose another data.data_dir to prepare it in."
        ) from error
    except ValueError as error:
        splits = list(builder.info.splits)
        base = re.split(r"\W", split, maxsplit=1)[0]
        raise ConfigError(
            f"data.splits.{key}={split!r} is not a split of {builder.name}, which has "
            f"{', '.join(splits)} and slices such as {splits[0]}[:80%]."
            + (f" TFDS: {error}" if base in splits else did_you_mean(base, splits))
        ) from error
    if not count:
        raise ConfigError(
            f"data.splits.{key}={split!r} of {builder.name} has no examples."
        )
    source[0]  # undecodable data fails here, not in a thread during training
    return TfdsSplit(str(builder.data_dir), split, tuple(columns.items()), source)


Range = tuple[str, int, int]  # a file and the examples that are taken: from, to


def check_overlaps(
    builder: "tfds.core.DatasetBuilder",
    splits: dict[str, str],
    ranges: dict[str, list[Range]],
) -> None:
    """Refuse examples that are in two splits, unless those are one and the same.

    A preset may declare that its validation split is the test split. But TFDS rounds:
    of 30 examples, `train[-1%:]` are all.
    """
    for one, other in itertools.combinations(splits, 2):
        if "train" not in (one, other) and splits[one] == splits[other]:
            continue
        common = sum(
            max(0, min(stop, end) - max(start, begin))
            for file, start, stop in ranges[one]
            for same, begin, end in ranges[other]
            if file == same
        )
        if common:
            raise ConfigError(
                f"data.splits.{one}={splits[one]!r} and data.splits.{other}="
                f"{splits[other]!r} of {builder.name} have {common} examples in common"
            )


def ranges_of(builder: "tfds.core.DatasetBuilder", split: str) -> list[Range]:
    """The files of a split and the examples that it takes of each."""
    try:
        instructions = builder.info.splits[split].file_instructions
    except KeyError:  # with tfds.testing.mock_data, which has no files
        return []
    return [
        (i.filename, i.skip, i.examples_in_shard if i.take < 0 else i.skip + i.take)
        for i in instructions
    ]
