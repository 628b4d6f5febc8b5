"""Noisy sines with their frequencies."""

import numpy as np


class Waves:
    """So many examples; what an example is depends on `seed` and its number alone."""

    def __init__(self, size, seed):
        self.size, self.seed = size, seed

    def __len__(self):
        return self.size

    def __getitem__(self, number):
        rng = np.random.default_rng([self.seed, number])
        frequency = rng.uniform(1, 5)
        wave = np.sin(frequency * np.linspace(0, 2 * np.pi, 64))
        noisy = wave + rng.normal(0, 0.3, 64)
        return {
            "wave": noisy.astype(np.float32),
            "frequency": np.float32(frequency),
        }
