import jax.numpy as jnp
import numpy as np
import pytest

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.tasks.quadratic import hessian, quadratic
from runner.tasks.task import numbers, sums

DEEP = [
    {"count": 90, "low": 0.0, "high": 1.0},
    {"count": 10, "low": 30.0, "high": 60.0},
]
FEATURES = {"input": Feature((100,), "float32")}


def test_a_loss_has_the_spectrum_and_a_random_rotation():
    matrix = hessian(DEEP, 42)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    values, vectors = np.linalg.eigh(matrix)
    assert 0 <= values[0] < values[89] < 1 and 30 <= values[90] < values[99] <= 60
    rng = np.random.RandomState(42)
    drawn = np.concatenate([rng.uniform(0, 1, 90), rng.uniform(30, 60, 10)])
    np.testing.assert_allclose(values, np.sort(drawn), atol=1e-10)
    assert np.abs(vectors).max() < 0.6  # no axis is an eigenvector
    assert not np.allclose(matrix, hessian(DEEP, 43))


def test_the_loss_is_that_of_deepobs():
    """353.4468 is published for the start, over the first 896 of its test data."""
    task = quadratic(features=FEATURES, inputs="input", spectrum=DEEP, seed=42)
    points = np.random.RandomState(43).normal(0, 0.6, (896, 100)).astype(np.float32)
    batch = {"input": jnp.asarray(points)}
    outputs = jnp.ones((896, 100))
    found = numbers(task, sums(task, outputs, batch))["loss"]
    assert float(found) == pytest.approx(353.4468, abs=1e-3)
    away = 1 - points.astype(float)
    expected = 0.5 * np.einsum("bi,ij,bj->b", away, hessian(DEEP, 42), away)
    values, weights = task.loss(outputs, batch)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert weights == 1 and task.output == (100,)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"seed": -1}, r"task\.seed=-1 must be from 0"),
        ({"spectrum": DEEP[:1]}, r"task\.spectrum has 90 eigenvalues.*size of 100"),
        (
            {"spectrum": [{"count": 100}]},
            r"task\.spectrum\[0\]=.* must have count, low",
        ),
        ({"spectrum": [DEEP[0] | {"count": 0}]}, r"spectrum\[0\]\.count=0 must be"),
        (
            {"spectrum": [DEEP[0] | {"count": 1.5}]},
            r"spectrum\[0\]\.count=1\.5 must be",
        ),
        ({"spectrum": [DEEP[0] | {"low": -1.0}]}, r"spectrum\[0\]\.low=-1\.0 must be"),
        (
            {"spectrum": [DEEP[0] | {"low": 2.0}]},
            r"low=2\.0 must be .* at most .*high=1",
        ),
        ({"inputs": "imput"}, r"task\.inputs=imput.*Did you mean 'input'"),
    ],
)
def test_a_mistake_is_one_message(changes, message):
    given = {"features": FEATURES, "inputs": "input", "spectrum": DEEP, "seed": 42}
    with pytest.raises(ConfigError, match=message):
        quadratic(**given | changes)
