import dataclasses
import os

import numpy as np
import pytest

from runner.data import digest
from runner.data.dataset import Dataset, MemorySplit
from runner.data.digest import data_digest, repeated, unrepeatable


def columns(size: int) -> dict[str, np.ndarray]:
    return {
        "input": np.arange(3 * size, dtype=np.float32).reshape(size, 3),
        "label": np.arange(size, dtype=np.int32) % 7,
    }


@dataclasses.dataclass(frozen=True)
class Streamed:
    """The same examples, but none of them in memory."""

    size: int

    def __len__(self) -> int:
        return self.size

    def rows(self, indices):
        return {name: column[indices] for name, column in columns(self.size).items()}


def dataset(train=None, **changes) -> Dataset:
    splits = {"train": train or MemorySplit(columns(50))}
    splits |= {"validation": MemorySplit(columns(11))}
    return Dataset("x", splits, {}, 4, "memory", **changes)


@pytest.fixture(params=[2**24, 100], ids=["at once", "in chunks"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(digest, "_CHUNK", request.param)


@pytest.mark.parametrize("row", [0, 31, 49])
@pytest.mark.parametrize("column", ["input", "label"])
def test_each_value_of_each_column_counts(chunk, column, row):
    changed = columns(50)
    changed[column][row] += 1
    before, after = data_digest(dataset()), data_digest(dataset(MemorySplit(changed)))
    assert before["train"].pop(column) != after["train"].pop(column)
    assert before == after and set(before) == {"train", "validation"}


def test_examples_that_training_has_too_are_counted(chunk):
    hashes = {}
    other = {name: x[::-1] for name, x in columns(20).items()}
    other["label"][[3, 4]] += 1
    splits = {"train": Streamed(15), "test": MemorySplit(other)}
    data = Dataset("x", splits | {"validation": Streamed(15)}, {}, 4, "stream")
    assert data_digest(data, hashes) == data_digest(data)
    assert repeated(hashes) == {"test": 15, "validation": 15}
    other["label"][[10, 19]] += 1
    data_digest(data, hashes)
    assert repeated(hashes) == {"test": 13, "validation": 15}
    del hashes["validation"]
    hashes["test"] += np.uint64(1)
    assert repeated(hashes) == repeated({}) == {}


def test_examples_that_are_never_the_same_are_noticed():
    @dataclasses.dataclass(frozen=True)
    class Noisy(Streamed):
        def rows(self, indices):
            noise = np.random.default_rng().normal(size=(len(indices), 3))
            return super().rows(indices) | {"input": noise.astype(np.float32)}

    assert unrepeatable(dataset(Streamed(50))) is None
    assert unrepeatable(dataset(Noisy(50))) == "train"


def test_order_shape_and_type_count_too(chunk):
    base = data_digest(dataset())
    for other in (
        {name: x[::-1] for name, x in columns(50).items()},
        columns(50) | {"input": columns(50)["input"].reshape(50, 1, 3)},
        columns(50) | {"input": columns(50)["input"].view(np.int32)},
    ):
        assert data_digest(dataset(MemorySplit(other))) != base


def test_it_is_the_same_wherever_the_examples_are(chunk):
    assert data_digest(dataset(Streamed(50))) == data_digest(dataset())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "examples"
    path.write_bytes(b"x" * 10)
    return path


def test_a_stream_is_known_by_the_contents_of_its_files(file):
    stream = dataset(Streamed(50), files=[file])
    before = data_digest(stream)
    assert set(before) == {"contents"}
    os.utime(file, (0, 0))
    assert data_digest(stream) == before
    file.write_bytes(b"x" * 9 + b"y")
    assert data_digest(stream) != before


def test_large_data_are_known_by_their_files_and_marked_so(file, monkeypatch):
    monkeypatch.setattr(digest, "LARGEST", 100)
    large = dataset(files=[file])
    (one,) = data_digest(large)["files"]
    assert (one["path"], one["bytes"]) == (str(file.resolve()), 10)
    assert one["inode"] == file.stat().st_ino
    file.write_bytes(b"y" * 10)
    os.utime(file, (0, 0))  # of its times, only this one can be set
    assert data_digest(large)["files"] != [one]


def test_large_data_without_files_are_known_by_a_sample(monkeypatch):
    monkeypatch.setattr(digest, "LARGEST", 100)
    changed = columns(50)
    changed["label"][49] += 1  # the last one is always in it
    before, after = data_digest(dataset()), data_digest(dataset(MemorySplit(changed)))
    assert set(before) == {"sample"} and before != after
