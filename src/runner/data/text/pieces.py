"""Files of text, read in pieces of bounded size, with the ends of documents marked."""

import codecs
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.errors import ConfigError

# Marks the end of a document. A lone surrogate is in no text that was decoded.
END = "\udfff"
PIECE = 2**22  # bytes that are read at once
# What ends a document, by the words for it in data.documents.
NAMED = {"files": "", "lines": "\n", "paragraphs": "\n\n"}


def pieces(
    files: Sequence[Path], documents: str | None, *, as_bytes: bool
) -> Iterator[str]:
    """The text of `files`, one after the other, in pieces.

    Args:
        files: In UTF-8, unless they are read as bytes. A byte-order mark is left out.
            Line ends of other systems become newlines, as where Python reads text.
        documents: None: all is one text, without any END. Else each file ends with END,
            and so does each document: before the text `documents`, which is left out,
            or what the word means in NAMED. Empty documents are left out too.
        as_bytes: A piece has a character from 0 to 255 for each byte, also of a mark
            and of line ends, unless documents are lines or paragraphs.

    Raises:
        ConfigError: a file is no text in UTF-8.
    """
    has_lines = not as_bytes or documents in ("lines", "paragraphs")
    if documents is None:
        for file in files:
            yield from _decoded(file, as_bytes, has_lines)
        return
    ending = NAMED.get(documents, documents)
    if as_bytes:
        ending = ending.encode().decode("latin-1")
    if has_lines:
        ending = ending.replace("\r\n", "\n").replace("\r", "\n")
    at_start = True  # of a document
    for file in files:
        for piece in _marked(_decoded(file, as_bytes, has_lines), ending):
            piece = re.sub(f"{END}{END}+", END, piece)
            if at_start:
                piece = piece.removeprefix(END)
            if piece:
                at_start = piece.endswith(END)
                yield piece


def _marked(parts: Iterator[str], ending: str) -> Iterator[str]:
    """`parts` with END instead of each `ending`, and after the last of them."""
    held = ""  # it may begin an ending
    for part in parts:
        text = held + part
        if ending:
            *whole, last = text.split(ending)
            kept = max(0, len(last) - len(ending) + 1)
            text, held = "".join(f"{each}{END}" for each in whole), last[kept:]
            text += last[:kept]
        yield text
    yield held + END


def _decoded(file: Path, as_bytes: bool, has_lines: bool) -> Iterator[str]:
    encoding = "latin-1" if as_bytes else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)()
    if has_lines:
        decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
    done = 0
    with file.open("rb") as opened:
        try:
            while part := opened.read(PIECE):
                yield decoder.decode(part)
                done += len(part)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{file} is not text in UTF-8: {error.reason} within "
                f"{PIECE} bytes from byte {done} on. data.vocabulary=bytes takes any "
                "file"
            ) from error
