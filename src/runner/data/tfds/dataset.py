"""Any TensorFlow Datasets (TFDS) data set as a `Dataset`, without TensorFlow."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runner.data.dataset import (
    MODES,
    Dataset,
    Mode,
    check_batch_size,
    check_mode,
    check_splits,
    chosen_mode,
)
from runner.data.files import expanded
from runner.data.labels import labelled
from runner.data.tfds import decoded
from runner.data.tfds.builder import find_builder
from runner.data.tfds.prepare import prepare, quiet_tfds
from runner.data.tfds.split import check_overlaps, load, open_split, ranges_of
from runner.data.transforms import Transform
from runner.errors import ConfigError, did_you_mean


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
    reshuffle: bool = True,  # as where it isn't recorded
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
        transforms, batch_size, reshuffle: See `Dataset`.
        mode, memory_limit_mb, device_limit_mb: See `chosen_mode`.
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
    root = expanded("data.data_dir", data_dir, "TFDS_DATA_DIR")
    manual = None if manual_dir is None else expanded("data.manual_dir", manual_dir)
    if manual is not None and not manual.is_dir():
        raise ConfigError(f"data.manual_dir={manual_dir} is not a folder.")
    read = {k: feature for k, feature in columns.items() if feature is not None}

    def mode_of(size_mb: float) -> Mode:
        sizes = {"device": size_mb, "memory": size_mb}
        limits = {"device": device_limit_mb, "memory": memory_limit_mb}
        return chosen_mode(mode, sizes, **limits)

    request = {"name": name, "splits": wanted, "columns": read, "labels": unlabelled}
    kept = None if mode == "stream" else decoded.path_of(root, request)
    found = decoded.load(kept) if kept else None
    if found is None or mode_of(found.size_mb) == "stream":
        with quiet_tfds():
            make = find_builder(name, root)
            features: Any = make().info.features
            specs = {
                k: _spec(features, k, feature, name) for k, feature in read.items()
            }
            builder = prepare(
                make, name=name, data_dir=root, manual_dir=manual, download=download
            )
            opened = {k: open_split(builder, k, s, read) for k, s in wanted.items()}
            ranges = {k: ranges_of(builder, split) for k, split in wanted.items()}
            check_overlaps(builder, wanted, ranges)
            classes = {k: n for k, f in read.items() if (n := _classes(features[f]))}
            example_bytes = sum(math.prod(s) * d.itemsize for s, d in specs.values())
            size_mb = sum(map(len, opened.values())) * example_bytes / 2**20
            taken = {
                k: labelled(
                    split if mode_of(size_mb) == "stream" else load(split),
                    classes,
                    f"data.splits.{k}={split.split!r} of {name}",
                    drop=unlabelled == "drop",
                )
                for k, split in opened.items()
            }
        files = sorted({Path(file) for of in ranges.values() for file, *_ in of})
        found = decoded.Decoded(taken, classes, size_mb, files)
        if kept and mode_of(size_mb) == "device":
            decoded.save(kept, found, str(builder.data_dir))
    return Dataset(
        name=name,
        splits=found.splits,
        classes=found.classes,
        batch_size=batch_size,
        mode=mode_of(found.size_mb),
        transforms=transforms,
        files=found.files,
        reshuffle=reshuffle,
    )


def _spec(
    features: Any, key: str, feature: str, name: str
) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a feature of one example, refusing what can't be stacked."""
    import tensorflow_datasets as tfds

    if feature not in features:
        raise ConfigError(
            f"data.columns.{key}={feature!r} is not a feature of {name}, which has "
            f"{', '.join(features)}.{did_you_mean(feature, features)}"
        )
    info = features[feature].get_tensor_info()
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
