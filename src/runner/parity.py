"""`python -m runner.parity`: the three frameworks side by side, step by step.

From the same initial parameters and the same batches, so that what differs between
them is the frameworks themselves: in practice, rounding.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

FRAMEWORKS = ("jax", "linen", "nnx")
