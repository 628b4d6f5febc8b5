"""Times of a step, by how many members of a population train side by side.

As benchmarks/packing.py prints them. `runner.core.choose` reads the row that is nearest
to a program.
"""

from typing import NamedTuple


class Measured(NamedTuple):
    """One program on one kind of device.

    Attributes:
      platform, kind: of the device, in JAX's words.
      convolves: whether XLA's own convolutions are in the step.
      flops: of a member's step, as `choose.flops` counts them.
      microseconds: of a member's step, by the members side by side; 1: one after
        another.
    """

    platform: str
    kind: str
    convolves: bool
    flops: float
    microseconds: dict[int, float]


# 2 cores of an AMD EPYC, jax 0.10.2, with a load of 3 to 6 from others. By row: the
# MLPs [16], [128, 64] and [512, 256] on digits, examples/my_lab's transformer, and the
# CNN on 28 x 28 pixels as patches and as it is, each in batches of 64.
MEASURED = (
    Measured("cpu", "cpu", False, 3.28e5, {1: 28.4, 4: 23.6, 8: 20.6, 32: 20.3}),
    Measured("cpu", "cpu", False, 5.56e6, {1: 99.3, 4: 115.7, 8: 105.7, 32: 94.6}),
    Measured("cpu", "cpu", False, 6.04e7, {1: 1130, 4: 1238, 8: 1292, 32: 1624}),
    Measured("cpu", "cpu", False, 1.66e8, {1: 7545, 4: 8049, 8: 9074, 32: 13822}),
    Measured("cpu", "cpu", False, 1.60e9, {1: 27953, 4: 49345, 8: 69636}),
    Measured("cpu", "cpu", True, 1.60e9, {1: 38246, 4: 128841, 8: 155042}),
)
