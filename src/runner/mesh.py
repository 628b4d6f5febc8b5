"""The device mesh, and where arrays live on it."""

import math
from typing import NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from runner.errors import ConfigError


class Mesh(NamedTuple):
    """Shardings of what a program takes and gives.

    Attributes:
      replicated: whole on every device.
      carry: of parameters, rows and whatever else a run has of its own.
      batches: of training batches, whose examples are split over the axis `data`.
      eval_batches: of evaluation batches, likewise; a population shares them.
      devices: how many there are.
    """

    replicated: NamedSharding
    carry: NamedSharding
    batches: NamedSharding
    eval_batches: NamedSharding
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
    mesh = _mesh({"data": count})
    replicated = NamedSharding(mesh, PartitionSpec())
    batches = NamedSharding(mesh, PartitionSpec(None, "data"))
    return Mesh(replicated, replicated, batches, batches, count)


def population_mesh(devices: int, members: int) -> Mesh:
    """The same devices for a population, whose members are spread over them.

    What devices are left over split the batches of each member.
    """
    spread = math.gcd(devices, members)
    mesh = _mesh({"members": spread, "data": devices // spread})

    def sharding(*spec: str | None) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*spec))

    return Mesh(
        replicated=sharding(),
        carry=sharding("members"),
        batches=sharding("members", None, "data"),
        eval_batches=sharding(None, "data"),
        devices=devices,
    )


def population_size(devices: int, members: int) -> int:
    """The least number from `members` on that spreads evenly over as many as it can."""
    spread = max(d for d in range(1, devices + 1) if devices % d == 0 and d <= members)
    return -(-members // spread) * spread


def _mesh(axes: dict[str, int]) -> jax.sharding.Mesh:
    devices = jax.devices()[: math.prod(axes.values())]
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=types, devices=devices
    )
