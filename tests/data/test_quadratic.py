import numpy as np
import pytest

from runner.data.dataset import Feature
from runner.data.quadratic import quadratic
from runner.errors import ConfigError

SPLITS = {
    "train": {"seed": 42, "examples": 100},
    "validation": {"seed": 44, "examples": 2000},
}
ARGUMENTS = {
    "splits": SPLITS, "size": 5, "noise": 0.6, "batch_size": 10, "mode": "device",
}  # fmt: skip


def test_points_are_drawn_from_their_own_seeds():
    data = quadratic(**ARGUMENTS)
    assert data.features == {"input": Feature((5,), "float32")}
    points = data.train.columns["input"]
    expected = np.random.RandomState(42).normal(0, 0.6, (100, 5))
    np.testing.assert_array_equal(points, expected.astype(np.float32))
    validation = data.splits["validation"].columns["input"]
    assert not np.array_equal(points, validation[:100])
    np.testing.assert_allclose(validation.std(), 0.6, rtol=0.02)
    np.testing.assert_allclose(validation.mean(), 0, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0}, ["data.size=0", "at least 1"]),
        ({"noise": -0.1}, ["data.noise=-0.1"]),
        ({"mode": "stream"}, ["data.mode='stream'", "device, memory"]),
        (
            {"splits": SPLITS | {"tset": SPLITS["train"]}},
            ["tset", "Did you mean 'test'"],
        ),
        ({"splits": {"train": {"seed": 1}}}, ["data.splits.train={'seed': 1}"]),
        ({"splits": {"train": {"seed": -1, "examples": 9}}}, ["train.seed=-1 must"]),
        ({"splits": {"train": {"seed": 1, "examples": 0}}}, ["train.examples=0 must"]),
        (
            {"splits": {"train": {"seed": 1, "examples": 2**31 - 1}}, "size": 10**5},
            ["train.examples=2147483647 with data.size=100000", "GB to generate"],
        ),
        ({"splits": {"train": {"seed": 1, "examples": 1.5}}}, ["examples=1.5 must"]),
    ],
)
def test_a_mistake_is_told_with_key_and_value(changes, words):
    with pytest.raises(ConfigError) as error:
        quadratic(**ARGUMENTS | changes)
    for word in words:
        assert word in str(error.value)
