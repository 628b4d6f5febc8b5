"""Any TensorFlow Datasets (TFDS) data set as a `Dataset`, without TensorFlow."""

import dataclasses
import functools
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
)
from runner.data.tfds.builder import find_builder
from runner.data.tfds.prepare import prepare, quiet_tfds
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def tfds_data(
    *,
    name: str,
    train_split: str,
    eval_split: str,
    input: str,
    label: str | None,
    batch_size: int,
    mean: float,
    std: float,
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
        train_split: Split to train on, in TFDS's notation: `train`, `train[:80%]`.
        eval_split: Split to evaluate on.
        input: Feature to feed to the model; one numeric tensor of a fixed shape.
        label: Feature to predict, a `ClassLabel`; null for none.
        batch_size: Examples of one step over all devices.
        mean: Subtracted from the input, in the input's own units.
        std: Divides the input after that.
        mode: See `Dataset`. "auto" chooses by the size of both splits.
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
    root = Path(data_dir).expanduser()
    files = None if manual_dir is None else Path(manual_dir).expanduser()
    if files is not None and not files.is_dir():
        raise ConfigError(f"data.manual_dir={manual_dir} is not a folder.")
    with quiet_tfds():
        make_builder = find_builder(name, root)
        features = make_builder().info.features
        input_shape, dtype = _input_spec(features, input, name)
        num_classes = None if label is None else _num_classes(features, label, name)
        builder = prepare(
            make_builder, name=name, data_dir=root, manual_dir=files, download=download
        )
        train = _open_split(builder, "train_split", train_split, input, label)
        evaluation = _open_split(builder, "eval_split", eval_split, input, label)
        if mode == "auto":
            example_bytes = math.prod(input_shape) * dtype.itemsize
            size_mb = (len(train) + len(evaluation)) * example_bytes / 2**20
            mode = _choose_mode(size_mb, memory_limit_mb, device_limit_mb)
        in_memory = mode != "stream"
        return Dataset(
            name=name,
            train=_load(train) if in_memory else train,
            eval=_load(evaluation) if in_memory else evaluation,
            input_shape=input_shape,
            num_classes=num_classes,
            batch_size=batch_size,
            mode=mode,
            mean=float(mean),
            std=float(std),
        )


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """A split read from disk; two of the same folder, split and features are equal."""

    folder: str
    split: str
    input: str
    label: str | None
    source: Any = dataclasses.field(compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        keys = indices.tolist()
        try:
            examples = self.source.__getitems__(keys)
        except TypeError:  # the sources of tfds.testing.mock_data lack this
            examples = [self.source[key] for key in keys]
        batch = {"input": np.stack([example[self.input] for example in examples])}
        if self.label is not None:
            labels = [example[self.label] for example in examples]
            batch["label"] = np.asarray(labels, np.int32)
        return batch


# Reading costs 0.1 ms an example, so the jobs of a sweep that share a process share
# the columns of the last two splits, that is, one data set.
@functools.lru_cache(maxsize=2)
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
    input: str,
    label: str | None,
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
            f"data.{key}={split!r} is not a split of {builder.name}, which has "
            f"{', '.join(splits)} and slices such as {splits[0]}[:80%]."
            + (f" TFDS: {error}" if base in splits else did_you_mean(base, splits))
        ) from error
    if not len(source):
        raise ConfigError(f"data.{key}={split!r} of {builder.name} has no examples.")
    source[0]  # undecodable data fails here, not in a thread during training
    return TfdsSplit(str(builder.data_dir), split, input, label, source)


def _feature(features: Any, key: str, feature: str, name: str) -> Any:
    if feature not in features:
        raise ConfigError(
            f"data.{key}={feature!r} is not a feature of {name}, which has "
            f"{', '.join(features)}.{did_you_mean(feature, features)}"
        )
    return features[feature]


def _input_spec(
    features: Any, input: str, name: str
) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of one input, refusing what can't be stacked."""
    import tensorflow_datasets as tfds

    info = _feature(features, "input", input, name).get_tensor_info()
    if not isinstance(info, tfds.features.TensorInfo):
        raise ConfigError(
            f"data.input={input!r} of {name} is made of several tensors; choose a "
            "feature that is one tensor."
        )
    if np.dtype(info.np_dtype).kind not in "buif":
        raise ConfigError(
            f"data.input={input!r} of {name} is {info.np_dtype}, not numbers. Write a "
            "builder that stores numbers and name it as data.name=pkg.module:Builder."
        )
    shape = tuple(size for size in info.shape if size is not None)
    if len(shape) < len(info.shape):
        raise ConfigError(
            f"data.input={input!r} of {name} has the shape {info.shape}: its examples "
            "differ in size, and a batch needs one size. Write a builder that resizes "
            "or pads them and name it as data.name=pkg.module:Builder."
        )
    return shape, np.dtype(info.np_dtype)


def _num_classes(features: Any, label: str, name: str) -> int:
    feature = _feature(features, "label", label, name)
    num_classes = getattr(feature, "num_classes", None)
    if num_classes is None or feature.get_tensor_info().shape != ():
        raise ConfigError(
            f"data.label={label!r} of {name} is not a ClassLabel with a known number "
            "of classes. Choose another feature, or data.label=null for no labels."
        )
    return num_classes
