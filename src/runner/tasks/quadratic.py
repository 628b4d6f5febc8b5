"""The task of being near to points, by a quadratic form: DeepOBS' stochastic quadratic.

Schneider et al., 2019: https://arxiv.org/abs/1903.05499
"""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from runner.data.dataset import Feature
from runner.errors import ConfigError
from runner.tasks.task import Task, columns, feature


def quadratic(
    *,
    features: Mapping[str, Feature],
    inputs: str,
    spectrum: Sequence[Mapping[str, float]],
    seed: int,
) -> Task:
    """0.5 (y - x)' H (y - x) between outputs y [B, size] and the flattened input x.

    The eigenvalues of H, which is rotated at random, are drawn from `spectrum`. Without
    noise in the data, an optimizer meets a loss of curvature H.

    Args:
      features: the columns of the data.
      inputs: the column that the model gets.
      spectrum: parts of the eigenvalues; each has their number, `count`, and the limits
        `low` and `high` between which they are drawn uniformly.
      seed: of the eigenvalues and the rotation, whatever the seed of a run.

    Raises:
      ConfigError: a value is out of range, or the numbers don't add up to the size.
    """
    size = math.prod(feature("inputs", inputs, features).shape)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"task.seed={seed} must be from 0 to {2**32 - 1}")
    for i, part in enumerate(spectrum):
        _check(part, f"task.spectrum[{i}]")
    count = sum(int(part["count"]) for part in spectrum)
    if count != size or size < 2:
        raise ConfigError(
            f"task.spectrum has {count} eigenvalues, but the inputs, of the column "
            f"{inputs}, have a size of {size}; their counts must add up to it, and it "
            "must be at least 2"
        )
    curvature = hessian(spectrum, seed).astype(np.float32)

    def loss(outputs, batch):
        points = batch[inputs].reshape(outputs.shape)
        away_BxD = outputs.astype(jnp.float32) - points.astype(jnp.float32)
        return 0.5 * jnp.sum(away_BxD * (away_BxD @ curvature), axis=-1), 1.0

    return Task(columns(inputs, features), (size,), loss)


def hessian(spectrum: Sequence[Mapping[str, float]], seed: int) -> np.ndarray:
    """A symmetric matrix in float64 with these eigenvalues.

    Drawn by NumPy's `RandomState`, whose numbers never change, in the order of DeepOBS:
    with its spectrum and its seed of 42 this is the matrix of quadratic_deep.
    """
    rng = np.random.RandomState(seed)
    eigenvalues = np.concatenate(
        [
            rng.uniform(part["low"], part["high"], int(part["count"]))
            for part in spectrum
        ]
    )
    turn = _rotation(len(eigenvalues), rng)
    return turn.T @ (eigenvalues[:, None] * turn)


def _rotation(size: int, rng: np.random.RandomState) -> np.ndarray:
    """Uniform over all rotations, by the subgroup algorithm.

    Diaconis and Shahshahani, 1987: a rotation of one dimension less, and a reflection
    that takes the first axis to a random direction.
    """
    angle = 2 * np.pi * rng.uniform()
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for dimensions in range(3, size + 1):
        direction = rng.normal(size=dimensions)
        normal = np.eye(dimensions)[0] - direction / np.linalg.norm(direction)
        normal /= np.linalg.norm(normal)
        larger = np.eye(dimensions)
        larger[1:, 1:] = turn
        turn = larger - 2 * np.outer(normal, normal @ larger)
    return -turn


def _check(part: Mapping[str, float], where: str) -> None:
    if not isinstance(part, Mapping) or part.keys() != {"count", "low", "high"}:
        raise ConfigError(f"{where}={part} must have count, low and high, nothing else")
    if type(part["count"]) is not int or part["count"] < 1:
        raise ConfigError(
            f"{where}.count={part['count']} must be a whole number of at least 1"
        )
    if not 0 <= part["low"] <= part["high"]:
        raise ConfigError(
            f"{where}.low={part['low']} must be at least 0 and at most "
            f"{where}.high={part['high']}"
        )
