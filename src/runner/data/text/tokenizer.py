"""Tokens by a tokenizer of one's own, in the format of Hugging Face's `tokenizers`."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from runner.data.files import expanded
from runner.data.text.pieces import END, NAMED
from runner.errors import ConfigError, did_you_mean

_MOST = 2**24  # characters of text without a safe place to cut it


def source(named: str, names: tuple[str, ...]) -> list[str]:
    """What identifies the tokenizer in the file `named`.

    Raises:
        ConfigError: there is no such file, or `tokenizers` isn't installed.
    """
    path = expanded("data.vocabulary", named)
    if not path.is_file():
        raise ConfigError(
            f"data.vocabulary={named} must be one of {', '.join(names)}, or the path "
            f"of a tokenizer.json, and is no file.{did_you_mean(named, names)}"
        )
    try:
        version = importlib.metadata.version("tokenizers")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"data.vocabulary={named} needs the package tokenizers: "
            "pip install 'jax-experiment-runner[text]'"
        ) from error
    return [_digest(named), version]


def _digest(named: str) -> str:
    return hashlib.sha256(expanded("data.vocabulary", named).read_bytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer in the file `named`; its own truncation and padding are off.

    END is the tokenizer's own token `documents` if it has one, else one more token.
    """

    named: str
    documents: str | None

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import tokenizers  # pyright: ignore[reportMissingImports]

        # Else it warns of any process that is started after it has used threads.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        path = expanded("data.vocabulary", self.named)
        try:
            found = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # it has no exceptions of its own
            raise ConfigError(
                f"data.vocabulary={self.named} is no tokenizer.json: {error}"
            ) from error
        found.no_truncation()
        found.no_padding()
        return found

    @functools.cached_property
    def _known(self) -> int:
        places = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return 1 + max(places, default=-1)

    @property
    def end(self) -> int | None:
        if self.documents is None:
            return None
        if self.documents in NAMED:  # a word, which may be a token too
            return self._known
        own = self._tokenizer.token_to_id(self.documents)
        return self._known if own is None else own

    @property
    def size(self) -> int:
        return max(self._known, (self.end or 0) + 1)

    @property
    def description(self) -> dict[str, Any]:
        return {"tokenizer": _digest(self.named), "end": self.end}

    def encoded(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """See `Vocabulary`. The text is cut where that changes no token: see `_place`.

        Raises:
            ConfigError: the tokenizer has no token for something.
        """
        held = ""
        for piece in pieces:
            text = held + piece
            place = _place(text)
            held = text[place:]
            yield self._tokens(text[:place])
        yield self._tokens(held)

    def decoded(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, without END."""
        return self._tokenizer.decode([int(t) for t in tokens if t < self._known])

    def _tokens(self, text: str) -> np.ndarray:
        parts = text.split(END)
        try:
            found = self._tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        except Exception as error:
            raise ConfigError(
                f"data.vocabulary={self.named}: a token can't be found: {error}"
            ) from error
        tokens = [np.array(each.ids, np.int32) for each in found]
        ended = [np.append(each, np.int32(self.end or 0)) for each in tokens[:-1]]
        return np.concatenate([*ended, tokens[-1]])


def _place(text: str) -> int:
    """Where to cut: after a document, or a line between two that aren't blank.

    Tokenizers split text there before they look for tokens. Where there is no such
    place in a very long text, it is cut at its end.
    """
    place = text.rfind("\n")
    while place >= 0 and not (
        text[place - 1 : place].strip() and text[place + 1 : place + 2].strip()
    ):
        place = text.rfind("\n", 0, place)
    place = max(place, text.rfind(END)) + 1
    return len(text) if place == 0 and len(text) > _MOST else place
