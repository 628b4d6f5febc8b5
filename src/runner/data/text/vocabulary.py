"""Vocabularies: how text becomes tokens, and how many different ones there are."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from runner.data.text import tokenizer
from runner.data.text.pieces import END

NAMES = ("bytes", "characters")
_CODES = 0x110000  # of Unicode


class Vocabulary(Protocol):
    """What tokens mean.

    Attributes:
        size: One more than the largest token, that of END included.
        end: The token of END; None if the text has no documents.
        description: Plain values that distinguish it from others.
    """

    @property
    def size(self) -> int: ...

    @property
    def end(self) -> int | None: ...

    @property
    def description(self) -> dict[str, Any]: ...

    def encoded(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The tokens of `pieces` of text, END included, in arrays of bounded size."""
        ...


@dataclasses.dataclass(frozen=True)
class Characters:
    """A token is the place of a character in `characters`; END comes after them all."""

    characters: str
    has_end: bool

    @property
    def size(self) -> int:
        return len(self.characters) + self.has_end

    @property
    def end(self) -> int | None:
        return len(self.characters) if self.has_end else None

    @property
    def description(self) -> dict[str, Any]:
        return {"characters": self.characters, "end": self.end}

    def encoded(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        places = np.zeros(_CODES, np.int32)
        places[_codes(self.characters)] = np.arange(len(self.characters))
        places[ord(END)] = len(self.characters)
        for piece in pieces:
            yield places[_codes(piece)]


def _characters(pieces: Iterable[str]) -> str:
    """All characters that occur in `pieces` but END, sorted."""
    seen = np.zeros(_CODES, bool)
    for piece in pieces:
        seen[_codes(piece)] = True
    seen[ord(END)] = False
    return "".join(map(chr, np.flatnonzero(seen)))


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def source(named: str) -> str | list[str]:
    """What identifies the vocabulary `named` beside the text.

    Raises:
        ConfigError: see `tokenizer.source`.
    """
    return named if named in NAMES else tokenizer.source(named, NAMES)


def decoder(
    named: str, documents: str | None, description: dict[str, Any]
) -> Callable[[Iterable[int]], str]:
    """A function that makes text of the tokens of a vocabulary; END is a line's end.

    Args:
        named, documents: See `vocabulary`.
        description: That of the vocabulary.
    """
    if named not in NAMES:
        return tokenizer.Tokenizer(named, documents).decoded
    known = description["characters"] + "\n"

    def decode(tokens):
        text = "".join(known[token] for token in tokens)
        is_bytes = named == "bytes"
        return text.encode("latin-1").decode(errors="replace") if is_bytes else text

    return decode


def vocabulary(named: str, pieces: Iterable[str], documents: str | None) -> Vocabulary:
    """The vocabulary `named`, for a text of `pieces`, with END if it has documents."""
    if named not in NAMES:
        return tokenizer.Tokenizer(named, documents)
    # Bytes are the characters of these numbers: see `pieces`.
    known = "".join(map(chr, range(256))) if named == "bytes" else _characters(pieces)
    return Characters(known, has_end=documents is not None)
