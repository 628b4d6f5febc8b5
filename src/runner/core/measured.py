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


# 2 cores of an AMD EPYC with AVX-512, jax 0.10.2, one program after the other, by
# --rounds 3. Digits are 8x8 images. Batches of 64, of the 2c2d 128, and an evaluation
# an epoch. So a step of a small model alone takes longer than in a long run without
# evaluations, which cost the host a call.
MEASURED = (
    Measured(
        "cpu", "cpu", "mlp [16]", 3.28e5,
        {"native": {1: 15.55, 4: 11.86, 8: 12.61, 32: 10.57}},
    ),
    Measured(
        "cpu", "cpu", "mlp [128, 64]", 5.56e6,
        {"native": {1: 54.77, 4: 64.81, 8: 59.67, 32: 52.57}},
    ),
    Measured(
        "cpu", "cpu", "mlp [512, 256]", 6.04e7,
        {"native": {1: 409.1, 4: 340.8, 8: 381.8, 32: 540.4}},
    ),
    Measured(
        "cpu", "cpu", "transformer 32", 3.30e8,
        {"native": {1: 8060, 4: 6801, 8: 6763, 32: 7253}},
    ),
    Measured(
        "cpu", "cpu", "transformer 128", 4.94e9,
        {"native": {1: 38200, 4: 40540, 8: 44540, 32: 52880}},
    ),
    Measured(
        "cpu", "cpu", "cnn 8x8", 1.31e8,
        {"native": {1: 1288, 4: 2373, 8: 2467, 32: 4998},
         "patches": {1: 979.7, 4: 826.3, 8: 968.7, 32: 1389}},
    ),
    Measured(
        "cpu", "cpu", "cnn 28x28", 1.60e9,
        {"native": {1: 18110, 4: 74940, 8: 87480, 32: 108300},
         "patches": {1: 12270, 4: 16040, 8: 17850, 32: 28040}},
    ),
    Measured(
        "cpu", "cpu", "2c2d", 1.05e10,
        {"native": {1: 442300, 4: 477000, 8: 551300, 32: 855700},
         "patches": {1: 115200, 4: 123600, 8: 174700, 32: 194400}},
    ),
    Measured(
        "cpu", "cpu", "cnn 28x28 [64, 128, 256]", 1.13e10,
        {"native": {1: 78520, 4: 313900}, "patches": {1: 49160, 4: 62930}},
    ),
)  # fmt: skip
