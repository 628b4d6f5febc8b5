"""Any TensorFlow Datasets (TFDS) data set as a `Dataset`, without TensorFlow."""

import dataclasses
import functools
import itertools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runner.data.dataset import (
    MODES,
    Dataset,
    MemorySplit,
    Mode,
    check_batch_size,
    check_mode,
    check_splits,
    labelled,
)
from runner.data.tfds.builder import find_builder
from runner.data.tfds.prepare import prepare, quiet_tfds
from runner.data.transforms import Transform
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def tfds_data(
    *,
    name: str,
    splits: dict[str, str | None],
    columns: dict[str, str | None],
    unlabelled: Literal["refuse", "drop"],
    transforms: list[Transform],
    batch_size: int,
    mode: Literal["auto", "device", "memory", "stream"],
    memory_limit_mb: float,
    device_limit_mb: float,
    data_dir: str,
    manual_dir: str | None,
    download: bool,
) -> Dataset:
    """A data set of TFDS, prepared as array_record files on first use.

    Args:
        name: `digits` (embedded), a name of TFDS (`emnist/letters`, `mnist:3.0.1`), a
            builder class of your own (`pkg.module:BuilderClass`, also from the working
            directory) or the path of a folder that TFDS has prepared.
        splits: The splits in TFDS's notation, such as `train[:80%]`, by their names
            here: train, validation, test (see `Dataset`). Null: there is none.
        columns: The features to read, by the names that tasks know them by. Each is one
            numeric tensor of a fixed shape. Null: not read.
        unlabelled: What to do with examples whose class is out of range, such as the -1
            that TFDS uses for unknown ones: refuse them or drop them.
        transforms: Applied in turn, in the compiled step.
        batch_size: Examples of one step over all devices.
        mode: See `Dataset`. "auto" chooses by the size of all splits.
        memory_limit_mb: Largest size for "auto" to hold in host memory, in MiB.
        device_limit_mb: Largest size for "auto" to copy to each device, in MiB.
        data_dir: Folder of all prepared data sets; `~` is expanded.
        manual_dir: Folder searched for source files, by their original names, before
            any download; null means `<data_dir>/downloads/manual`.
        download: Whether files may be downloaded. If not, missing files are an error
            that names them at once. If so, an unreachable server is an error after
            about 10 s, plus the DNS look-up; TFDS retries a transfer that breaks off
            later for up to a few minutes.

    Raises:
        ConfigError: a mistake in the config, with its key; whatever can be checked
            without the data is checked before anything is prepared.
    """
    check_batch_size(batch_size)
    check_mode(mode, ("auto", *MODES))
    wanted = {name: split for name, split in splits.items() if split is not None}
    check_splits(wanted)
    root = Path(data_dir).expanduser()
    files = None if manual_dir is None else Path(manual_dir).expanduser()
    if files is not None and not files.is_dir():
        raise ConfigError(f"data.manual_dir={manual_dir} is not a folder.")
    with quiet_tfds():
        make_builder = find_builder(name, root)
        features: Any = make_builder().info.features
        read = {k: feature for k, feature in columns.items() if feature is not None}
        specs = {k: _spec(features, k, feature, name) for k, feature in read.items()}
        classes = {k: size for k, f in read.items() if (size := _classes(features[f]))}
        builder = prepare(
            make_builder, name=name, data_dir=root, manual_dir=files, download=download
        )
        opened = {
            k: _open_split(builder, k, split, read) for k, split in wanted.items()
        }
        ranges = {k: _ranges(builder, split) for k, split in wanted.items()}
        _check_overlaps(builder, wanted, ranges)
        if mode == "auto":
            example_bytes = sum(math.prod(s) * d.itemsize for s, d in specs.values())
            size_mb = sum(map(len, opened.values())) * example_bytes / 2**20
            mode = _choose_mode(size_mb, memory_limit_mb, device_limit_mb)
        return Dataset(
            name=name,
            splits={
                k: labelled(
                    split if mode == "stream" else _load(split),
                    classes,
                    f"data.splits.{k}={split.split!r} of {name}",
                    drop=unlabelled == "drop",
                )
                for k, split in opened.items()
            },
            classes=classes,
            batch_size=batch_size,
            mode=mode,
            transforms=transforms,
            files=sorted({Path(file) for of in ranges.values() for file, *_ in of}),
        )


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
        return {
            name: _as_32_bits(np.stack([example[feature] for example in examples]))
            for name, feature in self.columns
        }


def _as_32_bits(column: np.ndarray) -> np.ndarray:
    """Labels are int64 in TFDS, which JAX doesn't have unless it is told to."""
    return column.astype(np.int32) if column.dtype == np.int64 else column


# Reading costs 0.1 ms an example, so the jobs of a sweep that share a process share
# the columns of the last three splits, that is, one data set.
@functools.lru_cache(maxsize=3)
def _load(split: TfdsSplit) -> MemorySplit:
    size, chunk = len(split), 1024
    first = split.rows(np.arange(1))
    columns = {
        name: np.empty((size, *row.shape[1:]), row.dtype) for name, row in first.items()
    }
    for start in range(0, size, chunk):
        indices = np.arange(start, min(start + chunk, size))
        for name, rows in split.rows(indices).items():
            columns[name][start : start + chunk] = rows
    for column in columns.values():
        column.flags.writeable = False
    return MemorySplit(columns)


def _choose_mode(
    size_mb: float, memory_limit_mb: float, device_limit_mb: float
) -> Mode:
    if size_mb <= device_limit_mb:
        return "device"
    return "memory" if size_mb <= memory_limit_mb else "stream"


def _open_split(
    builder: "tfds.core.DatasetBuilder",
    key: str,
    split: str,
    columns: dict[str, str],
) -> TfdsSplit:
    open_source: Any = builder.as_data_source  # its decorator hides its signature
    try:
        source = open_source(split=split)
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
    if not len(source):
        raise ConfigError(
            f"data.splits.{key}={split!r} of {builder.name} has no examples."
        )
    source[0]  # undecodable data fails here, not in a thread during training
    return TfdsSplit(str(builder.data_dir), split, tuple(columns.items()), source)


_Range = tuple[str, int, int]  # a file and the examples that are taken: from, to


def _check_overlaps(
    builder: "tfds.core.DatasetBuilder",
    splits: dict[str, str],
    ranges: dict[str, list[_Range]],
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


def _ranges(builder: "tfds.core.DatasetBuilder", split: str) -> list[_Range]:
    """The files of a split and the examples that it takes of each."""
    try:
        instructions = builder.info.splits[split].file_instructions
    except KeyError:  # with tfds.testing.mock_data, which has no files
        return []
    return [
        (i.filename, i.skip, i.examples_in_shard if i.take < 0 else i.skip + i.take)
        for i in instructions
    ]


def _feature(features: Any, key: str, feature: str, name: str) -> Any:
    if feature not in features:
        raise ConfigError(
            f"data.columns.{key}={feature!r} is not a feature of {name}, which has "
            f"{', '.join(features)}.{did_you_mean(feature, features)}"
        )
    return features[feature]


def _spec(
    features: Any, key: str, feature: str, name: str
) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a feature of one example, refusing what can't be stacked."""
    import tensorflow_datasets as tfds

    info = _feature(features, key, feature, name).get_tensor_info()
    if not isinstance(info, tfds.features.TensorInfo):
        raise ConfigError(
            f"data.columns.{key}={feature!r} of {name} is made of several tensors; "
            "choose a feature that is one tensor."
        )
    if np.dtype(info.np_dtype).kind not in "buif":
        raise ConfigError(
            f"data.columns.{key}={feature!r} of {name} is {info.np_dtype}, not "
            "numbers. Write a builder that stores numbers and name it as "
            "data.name=pkg.module:Builder."
        )
    shape = tuple(size for size in info.shape if size is not None)
    if len(shape) < len(info.shape):
        raise ConfigError(
            f"data.columns.{key}={feature!r} of {name} has the shape {info.shape}: its "
            "examples differ in size, and a batch needs one size. Write a builder that "
            "resizes or pads them and name it as data.name=pkg.module:Builder."
        )
    return shape, np.dtype(info.np_dtype)


def _classes(feature: Any) -> int | None:
    """The number of classes of a `ClassLabel`, or of a sequence of them."""
    return getattr(getattr(feature, "feature", feature), "num_classes", None)
