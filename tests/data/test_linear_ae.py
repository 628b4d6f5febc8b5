import numpy as np
import pytest

from runner.data.dataset import Feature
from runner.data.linear_ae import linear_ae
from runner.errors import ConfigError

ARGUMENTS = {
    "num_train": 2048,
    "num_validation": 512,
    "num_test": 128,
    "input_size": 16,
    "rank": 4,
    "noise": 0.1,
    "data_seed": 0,
    "batch_size": 32,
    "mode": "device",
}


def test_shapes_and_scale():
    data = linear_ae(**ARGUMENTS)
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 2048, "validation": 512, "test": 128}
    assert data.features == {"input": Feature((16,), "float32")}
    assert list(data.train.columns) == ["input"]
    inputs = data.train.columns["input"]
    assert inputs.dtype == np.float32
    assert inputs.shape == (2048, 16)
    assert 0.5 < inputs.var() < 2


def test_all_but_the_noise_lies_in_one_subspace_of_both_splits():
    data = linear_ae(**ARGUMENTS)
    train, evaluation = (
        data.splits[name].columns["input"] for name in ("train", "validation")
    )
    directions = np.linalg.svd(train, full_matrices=False)[2]
    for hidden in (4, 8):  # hidden units of the best linear autoencoder
        kept = directions[:hidden]
        loss = np.mean((evaluation - evaluation @ kept.T @ kept) ** 2)
        np.testing.assert_allclose(loss, 0.1**2 * (16 - hidden) / 16, rtol=0.1)
    kept = directions[:3]
    assert np.mean((evaluation - evaluation @ kept.T @ kept) ** 2) > 0.05


def test_the_seed_fixes_the_examples():
    first, again = linear_ae(**ARGUMENTS), linear_ae(**ARGUMENTS)
    other = linear_ae(**ARGUMENTS | {"data_seed": 1})
    inputs = first.train.columns["input"]
    np.testing.assert_array_equal(inputs, again.train.columns["input"])
    assert not np.array_equal(inputs, other.train.columns["input"])
    assert not np.array_equal(inputs[:512], first.splits["validation"].columns["input"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 17}, ["data.rank=17", "data.input_size=16"]),
        ({"rank": 0}, ["data.rank=0", "from 1"]),
        ({"noise": -0.1}, ["data.noise=-0.1"]),
        ({"num_test": 0}, ["data.num_test=0"]),
        ({"mode": "stream"}, ["data.mode='stream'", "device, memory"]),
        ({"batch_size": 4096}, ["data.batch_size=4096", "2048 training examples"]),
    ],
)
def test_a_mistake_is_told_with_key_and_value(changes, words):
    with pytest.raises(ConfigError) as error:
        linear_ae(**ARGUMENTS | changes)
    for word in words:
        assert word in str(error.value)
