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


# 2 cores of an AMD EPYC, jax 0.10.2, by --rounds 3. Only the MLPs had the cores to
# themselves, so only ratios within a row count. Digits are 8x8 images. Batches of 64,
# and an evaluation an epoch. So a step of a small model alone takes longer than in a
# long run without evaluations, which cost the host a call.
MEASURED = (
    Measured(
        "cpu", "cpu", "mlp [16]", 3.28e5,
        {"native": {1: 25.4, 4: 17.3, 8: 20.4, 32: 17.4}},
    ),
    Measured(
        "cpu", "cpu", "mlp [128, 64]", 5.56e6,
        {"native": {1: 121, 4: 126, 8: 113, 32: 108}},
    ),
    Measured(
        "cpu", "cpu", "mlp [512, 256]", 6.04e7,
        {"native": {1: 870, 4: 774, 8: 765, 32: 1027}},
    ),
    Measured(
        "cpu", "cpu", "transformer 32", 3.30e8,
        {"native": {1: 12530, 4: 11820, 8: 13510, 32: 15470}},
    ),
    Measured(
        "cpu", "cpu", "transformer 128", 4.94e9,
        {"native": {1: 123400, 4: 88210, 8: 98730, 32: 140600}},
    ),
    Measured(
        "cpu", "cpu", "cnn 8x8", 1.31e8,
        {"native": {1: 2709, 4: 4317, 8: 5038, 32: 7956},
         "patches": {1: 2331, 4: 1938, 8: 2502, 32: 3070}},
    ),
    Measured(
        "cpu", "cpu", "cnn 28x28", 1.60e9,
        {"native": {1: 49570, 4: 120700, 8: 172500, 32: 257700},
         "patches": {1: 44960, 4: 47410, 8: 50430, 32: 50310}},
    ),
    Measured(
        "cpu", "cpu", "cnn 28x28 [64, 128, 256]", 1.13e10,
        {"native": {1: 540100}, "patches": {1: 614000}},
    ),
)  # fmt: skip
