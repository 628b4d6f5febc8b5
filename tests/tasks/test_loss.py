"""Losses against their definitions in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from runner.errors import ConfigError
from runner.tasks.classification import classification
from runner.tasks.reconstruction import reconstruction

rng = np.random.default_rng(0)
logits = rng.normal(size=(6, 4)).astype(np.float32)
labels = np.array([0, 1, 2, 3, 0, 1], np.int32)


@pytest.mark.smoke
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_accuracy(smoothing):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    got = classification(smoothing).per_example(
        jnp.asarray(logits), {"label": jnp.asarray(labels)}
    )
    np.testing.assert_allclose(got["loss"], -(targets * log_p).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(got["accuracy"], logits.argmax(axis=1) == labels)


def test_reconstruction_is_the_mean_squared_error_of_each_example():
    images = rng.normal(size=(3, 2, 2, 1)).astype(np.float32)
    outputs = rng.normal(size=(3, 4)).astype(np.float32)
    got = reconstruction().per_example(jnp.asarray(outputs), {"input": images})
    expected = ((outputs - images.reshape(3, 4)) ** 2).mean(axis=1)
    np.testing.assert_allclose(got["loss"], expected, rtol=1e-5)


def test_smoothing_must_be_a_fraction():
    with pytest.raises(ConfigError, match=r"loss\.label_smoothing=1\.5"):
        classification(1.5)
