"""Models of a user that say themselves how their parameters are split."""

import math
from functools import partial

from flax import linen, nnx

from runner.models.model import Model

INIT = nnx.initializers.lecun_normal()  # the same function in linen


class Linen(linen.Module):
    split: object
    names: tuple
    width: int
    outputs: int

    @linen.compact
    def __call__(self, x, train: bool):
        column, row = (self.split(INIT, names) for names in self.names)
        x = x.reshape(len(x), -1)
        x = linen.Dense(self.width, False, kernel_init=column, name="hidden")(x)
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        return linen.Dense(self.outputs, kernel_init=row, name="output")(linen.relu(x))


class Nnx(nnx.Module):
    def __init__(self, inputs, width, outputs, split, names, rngs):
        column, row = (split(INIT, one) for one in names)
        # A bias before the norm would have gradients of nothing but rounding.
        self.hidden = nnx.Linear(
            inputs, width, use_bias=False, kernel_init=column, rngs=rngs
        )
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, outputs, kernel_init=row, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.hidden(x.reshape(len(x), -1)))
        return self.output(nnx.relu(x))


def partitioned(
    *,
    inputs,
    output,
    width=16,
    column=(None, "model"),
    row=("model", None),
    logical=None,
    **of_mlp,
):
    """A hidden layer split by columns and an output split by rows, in two frameworks.

    Args:
      column, row: names for the dimensions of the hidden and of the output kernel.
      logical: makes them logical, with these rules of flax: pairs of names.
    """
    names, size = (tuple(column), tuple(row)), math.prod(inputs.shape)
    rules = tuple(map(tuple, logical or ()))
    of_linen, of_nnx = linen.with_partitioning, nnx.with_partitioning
    if logical is not None:
        of_linen = partial(linen.with_logical_partitioning, rules=rules)
        of_nnx = partial(nnx.with_partitioning, sharding_rules=rules)
    return Model(
        linen=lambda: Linen(of_linen, names, width, *output),
        nnx=lambda rngs: Nnx(size, width, *output, of_nnx, names, rngs),
    )
