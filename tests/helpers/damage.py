"""Damage to files: single bits that flip."""

import contextlib
import random
from collections.abc import Iterable, Iterator
from pathlib import Path


def flips(files: Iterable[Path], count: int, seed: int) -> list[tuple[Path, int]]:
    """Random ones of these files, each with a bit in it; every bit is as likely."""
    files = sorted(files)
    bits = [8 * path.stat().st_size for path in files]
    draw = random.Random(seed)
    chosen = draw.choices(files, bits, k=count)
    return [(path, draw.randrange(8 * path.stat().st_size)) for path in chosen]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@contextlib.contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """The file with this bit flipped, until the block ends."""
    whole = path.read_bytes()
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    yield
    path.write_bytes(whole)
