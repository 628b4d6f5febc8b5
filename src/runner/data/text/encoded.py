"""Tokens in a file: encoded once, checked each time, mapped into memory.

The file holds all tokens, then a record in JSON, then the record's digest and length.
It is used only while the text is the very same files that it was made from, and only
if it is whole.
"""

import contextlib
import hashlib
import json
import mmap
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runner.data.digest import LARGEST, sha
from runner.data.files import identity
from runner.data.text import vocabulary
from runner.data.text.pieces import pieces
from runner.errors import ConfigError

_VERSION = 2  # raise it with any change of what tokens a text has
_CHUNK = 2**24  # bytes that are read at once
_TRAILER = 32 + 8  # the record's SHA-256 and its length


class Damaged(ValueError):
    """A file that isn't what was written."""


class Encoded(NamedTuple):
    """The tokens of one or several texts, which share a vocabulary.

    Attributes:
        path: of the file.
        dtype: of a token.
        parts: how many tokens each text has; they follow each other.
        size: of the vocabulary.
        end: the token that ends a document, or None.
        digest: of tokens, parts and vocabulary.
        vocabulary: its `description`.
    """

    path: Path
    dtype: np.dtype
    parts: dict[str, int]
    size: int
    end: int | None
    digest: str
    vocabulary: dict[str, Any]

    def mapped(self) -> mmap.mmap:
        """The file, whose memory is the system's; see `windows.Mapped`."""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def encoded(
    texts: Mapping[str, list[Path]],
    *,
    named: str,
    documents: str | None,
    folder: Path,
    name: str,
) -> Encoded:
    """The tokens of `texts`, from `folder` if they are there, else encoded now.

    Args:
        texts: The files of each, by the names of the parts.
        named: `data.vocabulary`. That of characters has those of all texts.
        documents: See `pieces`.
        folder: Of all encoded texts.
        name: What distinguishes this one there. The tokens of other versions of the
            same text are replaced.

    Raises:
        ConfigError: the text or the vocabulary is refused, or the folder can't be
            written.
    """
    source = {
        "version": _VERSION,
        "files": {part: identity(files) for part, files in texts.items()},
        "vocabulary": vocabulary.source(named),
        "documents": documents,
    }
    path = folder / f"{sha(name.encode())}.tokens"
    with contextlib.suppress(OSError, Damaged):
        found, made_from = _read(path)
        if made_from == source:
            return found
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(temporary, texts, named, documents, source)
        if {part: identity(files) for part, files in texts.items()} != source["files"]:
            raise ConfigError("the text has changed while it was read; start again")
        os.replace(temporary, path)
    except OSError as error:
        place = Path(error.filename or folder)
        if not (place.is_relative_to(folder) or folder.is_relative_to(place)):
            raise ConfigError(f"{place} can't be read: {error.strerror}") from error
        raise ConfigError(
            f"data.data_dir={folder} can't be written: {error}. Choose another"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return _read(path)[0]


def _write(
    path: Path,
    texts: Mapping[str, list[Path]],
    named: str,
    documents: str | None,
    source: dict[str, Any],
) -> None:
    def read(part: str):
        return pieces(texts[part], documents, as_bytes=named == "bytes")

    everything = (piece for part in texts for piece in read(part))
    known = vocabulary.vocabulary(named, everything, documents)
    dtype = np.min_scalar_type(max(0, known.size - 1))
    parts, digest = {}, hashlib.sha256()
    with path.open("wb") as file:
        for part in texts:
            parts[part] = 0
            for tokens in known.encoded(read(part)):
                data = tokens.astype(dtype).tobytes()
                digest.update(data)
                file.write(data)
                parts[part] += len(tokens)
        record = {
            "source": source,
            "parts": parts,
            "dtype": dtype.name,
            "size": known.size,
            "end": known.end,
            "vocabulary": known.description,
            "tokens": digest.hexdigest(),
        }
        text = json.dumps(record).encode()
        file.write(text + hashlib.sha256(text).digest() + len(text).to_bytes(8))


def _read(path: Path) -> tuple[Encoded, dict[str, Any]]:
    """What `_write` has written, and what it was made from."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _TRAILER:
            raise Damaged(path)
        file.seek(size - _TRAILER)
        digest, length = file.read(32), int.from_bytes(file.read(8))
        if not 0 < length <= size - _TRAILER:
            raise Damaged(path)
        file.seek(size - _TRAILER - length)
        text = file.read(length)
        if hashlib.sha256(text).digest() != digest:
            raise Damaged(path)
        record = json.loads(text)
        dtype, count = np.dtype(record["dtype"]), sum(record["parts"].values())
        left = count * dtype.itemsize
        if left != size - _TRAILER - length:
            raise Damaged(path)
        # Larger ones are known by their size alone, as larger data are.
        if left <= LARGEST and _digest(file, left) != record["tokens"]:
            raise Damaged(path)
    facts = [record[k] for k in ("tokens", "parts", "vocabulary")]
    known = Encoded(
        path, dtype, record["parts"], record["size"], record["end"],
        sha(json.dumps(facts, sort_keys=True).encode()), record["vocabulary"],
    )  # fmt: skip
    return known, record["source"]


def _digest(file: Any, left: int) -> str:
    """Of the first `left` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while left and (data := file.read(min(left, _CHUNK))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()
