import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.data.batches import eval_indices, train_batches
from runner.data.dataset import Dataset, MemorySplit
from runner.data.order import Order
from runner.errors import ConfigError


def numbered(size: int) -> MemorySplit:
    """Example i is the number i, twice."""
    return MemorySplit(
        {
            "input": np.repeat(np.arange(size, dtype=np.uint8)[:, None], 2, axis=1),
            "label": np.arange(size, dtype=np.int32) % 3,
        }
    )


def dataset(**changes) -> Dataset:
    defaults = Dataset(
        name="numbers",
        splits={"train": numbered(50), "validation": numbered(11)},
        classes={"label": 3},
        batch_size=4,
        mode="memory",
    )
    return dataclasses.replace(defaults, **changes)


def evaluating(size: int) -> dict:
    return {"train": numbered(50), "validation": numbered(size)}


@given(num_eval=st.integers(1, 60), batch_size=st.integers(1, 50))
def test_evaluation_counts_every_example_once(num_eval, batch_size):
    data = dataset(splits=evaluating(num_eval), batch_size=batch_size)
    rows, is_example = eval_indices(data, "validation")
    assert rows.shape == is_example.shape == (len(rows), batch_size)
    assert rows[is_example].tolist() == list(range(num_eval))
    assert not is_example.ravel()[num_eval:].any()


def test_what_is_validated_on_can_be_the_test_splits():
    names = ("validation", "validation_old", "test", "test_hard")
    splits = {"train": numbered(50)} | {n: numbered(4 + i) for i, n in enumerate(names)}
    data = dataset(splits=splits).validated_on_test()
    assert data.validations == ["validation", "validation_hard"] and not data.tests
    assert data.splits["validation"] is splits["test"]
    assert data.splits["validation_hard"] is splits["test_hard"]
    assert data.train is splits["train"]


def test_evaluation_fills_the_last_batch_with_row_0():
    indices, is_example = eval_indices(dataset(), "validation")
    assert indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]
    assert is_example.tolist() == [[True] * 4, [True] * 4, [True] * 3 + [False]]
    assert indices.dtype == np.int32


@pytest.mark.parametrize("start", [0, 1, 11, 12, 37])
def test_a_stream_resumes_exactly_and_equals_memory(start):
    order = Order(50, 4, seed=5, limit_batches=None)  # 12 steps an epoch
    stream = train_batches(dataset(mode="stream"), order, start)
    memory = train_batches(dataset(), order, start)
    for step, one, other in zip(range(start, start + 30), stream, memory, strict=False):
        assert sorted(one) == ["input", "label"]
        np.testing.assert_array_equal(one["input"][:, 0], order.indices_at(step))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_one_batch_for_ever():
    order = Order(50, 4, seed=5, limit_batches=1)
    batches = itertools.islice(train_batches(dataset(), order, 0), 5)
    assert len({batch["input"].tobytes() for batch in batches}) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"batch_size": 4096},
            ["data.batch_size=4096", "50 training examples", "data=numbers"],
        ),
        ({"batch_size": 0}, ["data.batch_size=0", "at least 1"]),
        ({"batch_size": 2.5}, ["data.batch_size=2.5", "whole number"]),
        ({"batch_size": True}, ["data.batch_size=True", "whole number"]),
        ({"mode": "stram"}, ["data.mode='stram'", "Did you mean 'stream'?"]),
        ({"splits": evaluating(0)}, ["split validation", "empty"]),
        ({"splits": {"train": numbered(9), "tst": numbered(9)}}, ["tst", "'test'?"]),
    ],
)
def test_a_mistake_is_told_with_key_value_and_rule(changes, words):
    with pytest.raises(ConfigError) as error:
        dataset(**changes)
    for word in words:
        assert word in str(error.value)


def test_the_whole_training_split_can_be_one_batch():
    order = Order(50, 50, seed=0, limit_batches=None)
    batch = next(train_batches(dataset(batch_size=50), order, 0))
    assert sorted(batch["input"][:, 0].tolist()) == list(range(50))
