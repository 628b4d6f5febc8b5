"""Text of one's own as a `Dataset` of windows of tokens."""

import os
from collections.abc import Mapping
from typing import Literal

import numpy as np

from runner.data.dataset import (
    MODES,
    Dataset,
    Split,
    check_batch_size,
    check_choice,
    check_mode,
    chosen_mode,
)
from runner.data.digest import LARGEST
from runner.data.files import expanded, find_files
from runner.data.text.encoded import Encoded, encoded
from runner.data.text.vocabulary import decoder
from runner.data.text.windows import Cut, Mapped, next_tokens
from runner.data.transforms import Transform
from runner.errors import ConfigError


def text(
    *,
    path: str,
    vocabulary: str,
    block_size: int,
    windows: Literal["random", "epoch"],
    validation: float | str | None,
    test: float | str | None,
    documents: str | None,
    transforms: list[Transform],
    batch_size: int,
    reshuffle: bool,
    mode: Literal["auto", "device", "memory", "stream"],
    device_limit_mb: float,
    memory_limit_mb: float,
    data_dir: str,
) -> Dataset:
    """Windows of `block_size` tokens of a text, for task=language_model.

    An example has the columns `tokens`, those that come `next`, both int32
    `[block_size]`, and `mask`, float32, with the weight of each prediction. The windows
    of validation and test don't overlap and predict each token but the first once.

    Args:
        path: Of a file, a folder or a glob; several files follow each other in the
            order of their paths.
        vocabulary: "bytes"; or "characters": those that occur in any split, sorted; or
            the path of a tokenizer.json, which needs the extra `text`.
        block_size: Tokens of a window.
        windows: How training draws them. "random": as nanoGPT, from anywhere, with
            replacement (see `Draws`). "epoch": windows that don't overlap, in a new
            order each epoch (see `Order`).
        validation: A fraction: that much from the end of the text, before `test`. A
            path: text of its own. None: there is none.
        test: Likewise.
        documents: What ends a document: see `pieces`. None: all is one text.
        transforms, batch_size, reshuffle: See `Dataset`.
        mode: See `Dataset`. A stream is a file of tokens that is mapped into memory.
        device_limit_mb, memory_limit_mb: See `chosen_mode`. On a device random windows
            take `block_size` + 1 times as much as the text.
        data_dir: Folder of the encoded text.

    Raises:
        ConfigError: a mistake in the config, with its key, or text that is too short.
    """
    check_batch_size(batch_size)
    check_mode(mode, ("auto", *MODES))
    _check(block_size, windows, documents)
    shares, texts = _held_out({"validation": validation, "test": test})
    sources = {"train": path} | texts
    files = {
        part: find_files(f"data.{'path' if part == 'train' else part}", source)
        for part, source in sources.items()
    }
    places = {k: os.path.abspath(expanded(k, p)) for k, p in sources.items()}
    found = encoded(
        files,
        named=vocabulary,
        documents=documents,
        folder=expanded("data.data_dir", data_dir),
        name=repr((sorted(places.items()), vocabulary, documents)),
    )
    ranges = _ranges(found, shares)
    strides = {part: block_size for part in ranges}
    if windows == "random":
        strides["train"] = 1
    cuts = {
        part: Cut(stop - start, block_size, strides[part])
        for part, (start, stop) in ranges.items()
    }
    _check_lengths(cuts)
    token_bytes, window_tokens = found.dtype.itemsize, block_size + 1
    on_device = sum(map(len, cuts.values())) * (window_tokens * token_bytes + 4)
    in_memory = sum(found.parts.values()) * token_bytes
    sizes = {"device": on_device / 2**20, "memory": in_memory / 2**20}
    chosen = chosen_mode(mode, sizes, device=device_limit_mb, memory=memory_limit_mb)
    return Dataset(
        name=path,
        splits=_splits(found, ranges, cuts, chosen == "stream"),
        classes={"tokens": found.size, "next": found.size},
        batch_size=batch_size,
        mode=chosen,
        transforms=[next_tokens(block_size, found.end), *transforms],
        files=[file for each in files.values() for file in each],
        reshuffle=reshuffle,
        contents=found.digest if in_memory <= LARGEST else None,
        drawn=cuts["train"].tokens // block_size if windows == "random" else None,
        decode=decoder(vocabulary, documents, found.vocabulary),
    )


def _check(block_size: int, windows: str, documents: str | None) -> None:
    if type(block_size) is not int or block_size < 1:
        raise ConfigError(
            f"data.block_size={block_size!r} must be a whole number of at least 1."
        )
    check_choice("windows", windows, ("random", "epoch"))
    if documents == "":
        raise ConfigError(
            "data.documents is empty: give the text that ends a document, or null"
        )


def _held_out(
    asked: Mapping[str, float | str | None],
) -> tuple[Mapping[str, float], dict[str, str]]:
    """The splits that are a share of the text, and those that have their own."""
    shares = {k: v for k, v in asked.items() if isinstance(v, int | float)}
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigError(
                f"data.{name}={share} must be a fraction of the text, above 0 and "
                "below 1, or a path, or null"
            )
    if sum(shares.values()) >= 1:
        raise ConfigError(
            f"data.validation={shares['validation']} and data.test={shares['test']} "
            "leave nothing to train on"
        )
    return shares, {k: v for k, v in asked.items() if isinstance(v, str)}


def _ranges(found: Encoded, shares: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """From which token to which each split goes."""
    total = stop = found.parts["train"]
    rest, ranges = 1.0, {}
    for name in ("test", "validation"):  # from the end of the text
        if name in shares:
            rest -= shares[name]
            start = _at_a_document(found, int(total * rest))
            ranges[name], stop = (start, stop), start
    ranges = {"train": (0, stop), **dict(reversed(ranges.items()))}
    start = total
    for name, count in found.parts.items():
        if name != "train":
            ranges[name] = start, start + count
            start += count
    return ranges


def _at_a_document(found: Encoded, at: int) -> int:
    """The first beginning of a document from the token `at` on; `at` without any."""
    if found.end is None:
        return at
    with found.mapped() as file:
        size = found.dtype.itemsize
        end = np.array(found.end, found.dtype).tobytes()
        place = at * size
        while (place := file.find(end, place)) >= 0 and place % size:
            place += 1
        return min(place // size + 1, found.parts["train"]) if place >= 0 else at


def _check_lengths(cuts: Mapping[str, Cut]) -> None:
    for name, cut in cuts.items():
        least = cut.length + 1 if name == "train" else 2
        if cut.tokens < least:
            raise ConfigError(
                f"data.block_size={cut.length}: the text of the split {name} has "
                f"{cut.tokens} tokens, and needs {least}, since each is predicted from "
                "those before it"
            )


def _splits(
    found: Encoded,
    ranges: Mapping[str, tuple[int, int]],
    cuts: Mapping[str, Cut],
    streams: bool,
) -> dict[str, Split]:
    if streams:
        size, file = found.dtype.itemsize, found.mapped()
        return {
            name: Mapped(file, found.dtype, start * size, cuts[name])
            for name, (start, _) in ranges.items()
        }
    tokens = np.fromfile(found.path, found.dtype, sum(found.parts.values()))
    return {
        name: cuts[name].in_memory(tokens[start:stop])
        for name, (start, stop) in ranges.items()
    }
