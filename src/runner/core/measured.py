"""Times of a step in the ways that `runner.core.choose` can take.

As benchmarks/packing.py prints them. The row that is nearest to a program decides.
"""

from typing import NamedTuple


class Measured(NamedTuple):
    """One program on one kind of device.

    Attributes:
      platform, kind: of the device, in JAX's words.
      program: what it trains.
      flops: of a member's step, as `choose.flops` counts them.
      microseconds: of a member's step, by the form of convolutions, if it has some,
        and by the members side by side; 1: one after another.
    """

    platform: str
    kind: str
    program: str
    flops: float
    microseconds: dict[str, dict[int, float]]

    @property
    def convolves(self) -> bool:
        """Whether convolutions are in the step."""
        return "patches" in self.microseconds


# 2 cores of an AMD EPYC, jax 0.10.2, with a load of 5 to 11 from others: only ratios
# within a row count. Digits are 8x8 images; the transformer was that of an earlier
# example, with two layers and an output layer of its own. Batches of 64, and an
# evaluation an epoch. So a step of a small model alone takes longer than in a long run
# without evaluations, which cost the host a call.
MEASURED = (
    Measured(
        "cpu", "cpu", "mlp [16]", 3.28e5,
        {"native": {1: 50.2, 4: 38.0, 8: 28.8, 32: 20.0}},
    ),
    Measured(
        "cpu", "cpu", "mlp [128, 64]", 5.56e6,
        {"native": {1: 366, 4: 167, 8: 166, 32: 149}},
    ),
    Measured(
        "cpu", "cpu", "mlp [512, 256]", 6.04e7,
        {"native": {1: 1270, 4: 1239, 8: 1306, 32: 2301}},
    ),
    Measured(
        "cpu", "cpu", "transformer 32", 1.66e8,
        {"native": {1: 6787, 4: 6891, 8: 8183, 32: 25010}},
    ),
    Measured(
        "cpu", "cpu", "cnn 8x8", 1.31e8,
        {"native": {1: 2921, 4: 4911, 8: 5865, 32: 14550},
         "patches": {1: 2832, 4: 3182, 8: 3657, 32: 5918}},
    ),
    Measured(
        "cpu", "cpu", "cnn 28x28", 1.60e9,
        {"native": {1: 76660, 4: 258500, 8: 292000, 32: 349700},
         "patches": {1: 69950, 4: 86540, 8: 83490, 32: 96020}},
    ),
    Measured(
        "cpu", "cpu", "cnn 28x28 [64, 128, 256]", 1.13e10,
        {"native": {1: 540100}, "patches": {1: 614000}},
    ),
)  # fmt: skip
