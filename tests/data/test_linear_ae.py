import numpy as np
import pytest

from runner.data.linear_ae import linear_ae
from runner.errors import ConfigError

ARGUMENTS = {
    "num_train": 2048,
    "num_eval": 512,
    "input_size": 16,
    "rank": 4,
    "noise": 0.1,
    "data_seed": 0,
    "batch_size": 32,
    "mode": "device",
}


def test_shapes_and_scale():
    data = linear_ae(**ARGUMENTS)
    assert (len(data.train), len(data.eval)) == (2048, 512)
    assert (data.input_shape, data.num_classes, data.mode) == ((16,), None, "device")
    assert list(data.train.columns) == ["input"]
    inputs = data.train.columns["input"]
    assert inputs.dtype == np.float32
    assert inputs.shape == (2048, 16)
    assert 0.5 < inputs.var() < 2


def test_all_but_the_noise_lies_in_one_subspace_of_both_splits():
    data = linear_ae(**ARGUMENTS)
    train, evaluation = data.train.columns["input"], data.eval.columns["input"]
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
    assert not np.array_equal(inputs[:512], first.eval.columns["input"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 17}, ["data.rank=17", "data.input_size=16"]),
        ({"rank": 0}, ["data.rank=0", "from 1"]),
        ({"noise": -0.1}, ["data.noise=-0.1"]),
        ({"num_eval": 0}, ["data.num_eval=0"]),
        ({"mode": "stream"}, ["data.mode='stream'", "device, memory"]),
        ({"batch_size": 4096}, ["data.batch_size=4096", "2048 training examples"]),
    ],
)
def test_a_mistake_is_told_with_key_and_value(changes, words):
    with pytest.raises(ConfigError) as error:
        linear_ae(**ARGUMENTS | changes)
    for word in words:
        assert word in str(error.value)
