"""The device mesh, and where arrays live on it."""

from typing import NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from runner.errors import ConfigError


class Mesh(NamedTuple):
    """Shardings over a mesh with one axis, `data`.

    Attributes:
      replicated: whole on every device.
      batches: split along the second dimension, the examples of a batch; the first is
        the steps.
    """

    replicated: NamedSharding
    batches: NamedSharding
    devices: int


def data_mesh(data: int, batch_size: int, microbatches: int) -> Mesh:
    """A mesh of `data` devices, or of all of them for -1, that splits each batch."""
    available = len(jax.devices())
    count = available if data == -1 else data
    if not 1 <= count <= available:
        raise ConfigError(
            f"mesh.data={data} must be -1 or between 1 and the {available} devices here"
        )
    if microbatches < 1 or batch_size % (count * microbatches):
        raise ConfigError(
            f"data.batch_size={batch_size} must be divisible by the {count} devices of "
            f"mesh.data={data} times train.gradient_accumulation={microbatches}"
        )
    devices = jax.devices()[:count]
    mesh = jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )
    return Mesh(
        replicated=NamedSharding(mesh, PartitionSpec()),
        batches=NamedSharding(mesh, PartitionSpec(None, "data")),
        devices=count,
    )
