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


# 2 cores of an AMD EPYC, jax 0.10.2, batches of 64.
MEASURED = (
    Measured(
        "cpu",
        "cpu",
        "mlp [16]",
        3.28e5,
        {"native": {1: 28.4, 4: 23.6, 8: 20.6, 32: 20.3}},
    ),
    Measured(
        "cpu",
        "cpu",
        "mlp [128, 64]",
        5.56e6,
        {"native": {1: 99.3, 4: 115.7, 8: 105.7, 32: 94.6}},
    ),
    Measured(
        "cpu",
        "cpu",
        "cnn",
        1.60e9,
        {
            "native": {1: 38246, 4: 128841, 8: 155042},
            "patches": {1: 27953.0, 4: 49345, 8: 69636},
        },
    ),
)
