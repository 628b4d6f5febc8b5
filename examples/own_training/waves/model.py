"""Two layers with dropout, in nnx."""

from flax import nnx

from runner.models.model import Model, input_size, output_size


class TwoLayers(nnx.Module):
    def __init__(self, size, width, outputs, dropout, dtype, rngs):
        self.first = nnx.Linear(size, width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.output = nnx.Linear(width, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.output(self.dropout(nnx.gelu(self.first(x))))


def two_layers(*, inputs, output, dtype, width, dropout):
    """`inputs`, `output` and `dtype` come from data, task and precision."""
    size, outputs = input_size("two_layers", inputs), output_size("two_layers", output)
    return Model(nnx=lambda rngs: TwoLayers(size, width, outputs, dropout, dtype, rngs))
