"""Anything with a length and examples by their numbers as a `Dataset`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from runner.data.batches import in_memory
from runner.data.bits import as_32_bits
from runner.data.dataset import (
    MODES,
    Dataset,
    Split,
    check_batch_size,
    check_mode,
    chosen_mode,
)
from runner.data.digest import LARGEST
from runner.data.files import find_files
from runner.data.labels import labelled
from runner.data.transforms import Transform
from runner.errors import ConfigError, did_you_mean, few

_MOST = 2**31 - 1  # examples, whose numbers are int32
_PAIR = ("input", "label")  # what the two parts of a tuple are called


def source(
    *,
    train: Any,
    validation: Any,
    test: Any,
    columns: dict[str, str | int] | None,
    classes: dict[str, int] | None,
    files: list[str],
    transforms: list[Transform],
    batch_size: int,
    reshuffle: bool,
    mode: Literal["auto", "device", "memory", "stream"],
    device_limit_mb: float,
    memory_limit_mb: float,
    threads: int,
) -> Dataset:
    """Examples of grain, Hugging Face's `datasets`, PyTorch or one's own.

    A source has `__len__` and `__getitem__`, which several threads call at once; or it
    is a function without arguments that returns one. An example is a dict of numbers
    or arrays, a tuple of them, or one array, which is called `input`; an array has the
    same shape and type in each. 64 bits become 32.

    Args:
        train: The source of the training examples.
        validation: The source of those to choose by, or None.
        test: The source of those for the end, or None.
        columns: The names in an example's dict, or the places in its tuple, by the
            names that tasks know them by. None: a dict's own names, and of a tuple of
            two `input` and `label`.
        classes: The number of classes, or the size of the vocabulary, of columns that
            have one, beside those that `features` of the source say.
        files: What the examples are read from: paths or globs. They identify data that
            are too large to be read for that.
        transforms, batch_size, reshuffle, threads: See `Dataset`.
        mode: See `Dataset` and `chosen_mode`. All but "stream" read each example once.
        device_limit_mb, memory_limit_mb: See `chosen_mode`.

    Raises:
        ConfigError: a mistake in the config, or an example that can't be used. What a
            source itself raises is left as it is.
    """
    check_batch_size(batch_size)
    check_mode(mode, ("auto", *MODES))
    if threads < 1:
        raise ConfigError(f"data.threads={threads} must be at least 1")
    if train is None:
        raise ConfigError("data.train must be given: it is null")
    given = {"train": train, "validation": validation, "test": test}
    opened: dict[str, Examples] = {}
    for key, made in given.items():
        if made is not None:
            opened[key] = Examples(key, _source(key, made), columns)
            opened[key].check_memory()
            _check_like(opened[key], opened["train"])
    sizes = opened["train"].classes | _checked(classes or {}, opened["train"])
    example = sum(np.dtype(t).itemsize * int(np.prod(s))
                  for s, t in opened["train"].form.values())  # fmt: skip
    size_mb = sum(map(len, opened.values())) * example / 2**20
    limits = {"device": device_limit_mb, "memory": memory_limit_mb}
    chosen = chosen_mode(mode, dict.fromkeys(limits, size_mb), **limits)
    splits: dict[str, Split] = {
        key: split if chosen == "stream" else in_memory(split, threads)
        for key, split in opened.items()
    }
    read_from = [file for path in files for file in find_files("data.files", path)]
    return Dataset(
        name="source",
        splits={
            key: labelled(split, sizes, f"data.{key}", drop=None)
            for key, split in splits.items()
        },
        classes=sizes,
        batch_size=batch_size,
        mode=chosen,
        transforms=transforms,
        # Smaller ones are known by their examples, of which a source may read a part.
        files=read_from if size_mb * 2**20 > LARGEST else (),
        reshuffle=reshuffle,
        threads=threads,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A split whose examples are those of `source`, in arrays by the names of tasks."""

    key: str
    source: Any
    columns: Mapping[str, str | int] | None

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        numbers, places = np.unique(indices, return_inverse=True)
        numbers = numbers.tolist()
        if hasattr(self.source, "__getitems__"):
            examples = self.source.__getitems__(numbers)
        else:
            examples = [self.source[number] for number in numbers]
        arrays = [
            self._checked(number, self._arrays(number, example))
            for number, example in zip(numbers, examples, strict=True)
        ]
        return {k: np.stack([each[k] for each in arrays])[places] for k in self.form}

    @functools.cached_property
    def form(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each array of the first example."""
        arrays = self._arrays(0, self.source[0])
        return {name: (x.shape, x.dtype.name) for name, x in arrays.items()}

    def check_memory(self) -> None:
        """Refuse examples that are overwritten by the next ones that are read.

        Raises:
          ConfigError: they are, so a batch would be its last example many times.
        """
        first = self.source[0]
        before = {name: x.tobytes() for name, x in self._arrays(0, first).items()}
        self.source[min(1, len(self) - 1)]
        for name, x in self._arrays(0, first).items():
            if x.tobytes() != before[name]:
                raise ConfigError(
                    f"data.{self.key}: reading example 1 changes {name} of example 0, "
                    "as where both are in one array of the source; return a copy, "
                    "since a batch has several examples"
                )

    @property
    def classes(self) -> dict[str, int]:
        """The classes of columns that `features`, as in `datasets`, have some for."""
        features = getattr(self.source, "features", None)
        if not isinstance(features, Mapping):
            return {}
        names = self.columns or {name: name for name in self.form}
        found = {
            name: getattr(features.get(own), "num_classes", None)
            for name, own in names.items()
        }
        return {name: size for name, size in found.items() if size}

    def _arrays(self, number: int, example: Any) -> dict[str, np.ndarray]:
        where = f"data.{self.key}: example {number}"
        if hasattr(example, "_asdict"):  # a named tuple
            example = example._asdict()
        parts: Any = {"input": example}
        if isinstance(example, Mapping):
            parts = example
        elif isinstance(example, tuple):
            parts = dict(enumerate(example))
            if self.columns is None:
                if len(example) != len(_PAIR):
                    raise ConfigError(
                        f"{where} is a tuple of {len(example)} parts; name them, as "
                        "in data.columns={input: 0, label: 1}"
                    )
                parts = dict(zip(_PAIR, example, strict=True))
        wanted = self.columns or {name: name for name in parts}
        for name, own in wanted.items():
            if own not in parts:
                raise ConfigError(
                    f"data.columns.{name}={own}: {where} has no such part, but "
                    f"{few(map(str, parts))}." + did_you_mean(str(own), map(str, parts))
                )
        return {k: _array(f"{where} has {k}", parts[own]) for k, own in wanted.items()}

    def _checked(
        self, number: int, arrays: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        for name, (shape, dtype) in self.form.items():
            if name not in arrays:
                raise ConfigError(f"data.{self.key}: example {number} has no {name}")
            x = arrays[name]
            if (x.shape, x.dtype.name) != (shape, dtype):
                raise ConfigError(
                    f"data.{self.key}: example {number} has {name} of shape {x.shape}, "
                    f"{x.dtype.name}, and the first one of shape {shape}, {dtype}; a "
                    "batch needs one of each"
                )
        return arrays


def _array(what: str, value: Any) -> np.ndarray:
    try:
        x = np.asarray(value)
    except ValueError as error:
        raise ConfigError(f"{what} that is no array: {error}") from error
    if x.dtype.kind not in "biuf":
        kind = type(value).__name__ if x.dtype.kind in "OUS" else x.dtype.name
        raise ConfigError(
            f"{what} that is {kind}, not numbers. Convert it in the source, or choose "
            "others with data.columns"
        )
    return as_32_bits(what, x)


def _source(key: str, made: Any) -> Any:
    if callable(made) and not hasattr(made, "__getitem__"):
        made = made()
    if isinstance(made, str):
        raise ConfigError(
            f"data.{key}={made} is text; a class or a function is named by its "
            f"_target_: 'data.{key}={{_target_: {made}}}'"
        )
    if isinstance(made, Mapping):
        raise ConfigError(
            f"data.{key} is a {type(made).__name__} of {few(map(str, made))}, not of "
            "examples; choose one of them, as split= does in Hugging Face's datasets"
        )
    for name in ("__len__", "__getitem__"):
        if not hasattr(made, name):
            raise ConfigError(
                f"data.{key} is {_described(made)}, which has no {name}; a source has "
                "__len__ and __getitem__, so that any example can be read at any time"
            )
    size = len(made)  # pyright: ignore[reportArgumentType]
    if not 0 < size <= _MOST:
        raise ConfigError(
            f"data.{key} has {size} examples, and must have from 1 to {_MOST}"
        )
    return made


def _described(made: Any) -> str:
    is_plain = isinstance(made, str | int | float)
    return repr(made) if is_plain else f"a {type(made).__name__}"


def _check_like(split: Examples, train: Examples) -> None:
    """Refuses a split whose examples have other arrays than those of train."""
    if split.form != train.form:
        raise ConfigError(
            f"data.{split.key} has examples of {split.form}, and data.train of "
            f"{train.form}"
        )


def _checked(classes: Mapping[str, int], split: Examples) -> dict[str, int]:
    for name, size in classes.items():
        if name not in split.form:
            raise ConfigError(
                f"data.classes.{name} is not a column of the examples, which have "
                f"{few(split.form)}.{did_you_mean(name, split.form)}"
            )
        if type(size) is not int or size < 1 or "int" not in split.form[name][1]:
            raise ConfigError(
                f"data.classes.{name}={size} must be a number of classes of at least "
                f"1, and the column whole numbers; it is {split.form[name][1]}"
            )
    return dict(classes)
