"""The device mesh, and where arrays live on it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from runner.core.pipeline import Pipeline
from runner.core.placement import Axes, Placement, rules
from runner.errors import ConfigError
from runner.settings import MeshSettings


class Mesh(NamedTuple):
    """Shardings of a program's arguments and results.

    Attributes:
      replicated: whole on every device.
      own: for metric rows and for a run's own values other than its state.
      batches: for training batches, whose examples are split over `data` and `fsdp`;
        in a population over the devices of each member.
      eval_batches: likewise for evaluation batches, which a population shares.
      devices: the number of devices.
      placement: how arrays of the state are split; not at all in a population.
    """

    replicated: NamedSharding
    own: NamedSharding
    batches: NamedSharding
    eval_batches: NamedSharding
    devices: int
    placement: Placement

    def state(self, shapes: Any) -> Any:
        """The sharding of each array of a state, or of anything shaped like its parts.

        It depends on shapes and paths.
        """
        if not self.placement.splits:
            return jax.tree.map(lambda _: self.own, shapes)
        mesh, spec = self.own.mesh, self.placement.spec
        return jax.tree.map_with_path(
            lambda path, x: NamedSharding(mesh, spec(path, x.shape)), shapes
        )

    def read(self, shapes: Any) -> Any:
        """The sharding of each array of a state where a forward pass reads it.

        It is gathered from the axes that split the batch too.
        """

        def gathered(sharding: NamedSharding) -> NamedSharding:
            split = Axes(model=self.placement.axes.model).present(sharding.spec)
            return sharding.update(spec=PartitionSpec(*split))

        return jax.tree.map(gathered, self.state(shapes))

    def with_metadata(self, pipeline: Pipeline) -> "Mesh":
        """This mesh, which places parameters as their model's own metadata ask, too.

        Raises:
          ConfigError: see `Placement.with_metadata`.
        """
        if self.devices == 1:
            return self
        found = self.placement.with_metadata(pipeline.partitioning())
        return self._replace(placement=found)

    def rows(self, batch_size: int) -> slice | np.ndarray:
        """The rows of a batch that this process reads; all if it is the only one."""
        if jax.process_count() == 1:
            return slice(None)
        shape = 1, batch_size
        parts = self.eval_batches.addressable_devices_indices_map(shape).values()
        own = {row for part in parts if part for row in range(batch_size)[part[1]]}
        return np.array(sorted(own))

    def put(self, arrays: Any, sharding: NamedSharding, batch_size: int) -> Any:
        """This process's `rows` of arrays [_, batch_size, ...] as global ones."""
        if jax.process_count() == 1:
            return jax.device_put(arrays, sharding)

        def put(array):
            shape = (len(array), batch_size, *array.shape[2:])
            return jax.make_array_from_process_local_data(sharding, array, shape)

        return jax.tree.map(put, arrays)


def devices() -> list[Any]:
    """The devices of all processes.

    Raises:
      ConfigError: there is none.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # how jax says that there is none
        platforms = jax.config.jax_platforms or ""  # pyright: ignore
        raise ConfigError(
            f"JAX has no device to run on, with JAX_PLATFORMS={platforms}: {error}"
        ) from error


def device_mesh(config: MeshSettings, batch_size: int, microbatches: int) -> Mesh:
    """The mesh of one run: axes `data`, `fsdp` and `model`.

    Args:
      config: the `mesh` section.
      batch_size: the examples of a step over all devices.
      microbatches: the number that each batch is cut into.

    Raises:
      ConfigError: there aren't that many devices, they don't divide the batch, or a
        rule isn't one.
    """
    asked = Axes(config.data, config.fsdp, config.model)
    axes = _sizes(asked, len(jax.devices()))
    parts, count = axes.data * axes.fsdp, math.prod(axes)
    if microbatches < 1 or batch_size % (parts * microbatches):
        raise ConfigError(
            f"data.batch_size={batch_size} must be divisible by the {parts} devices of "
            f"mesh.data={config.data} and mesh.fsdp={config.fsdp} times "
            f"train.gradient_accumulation={microbatches}"
        )
    if jax.process_count() > 1 and count < len(jax.devices()):
        raise ConfigError(
            f"{_text(asked)} takes {count} of the {len(jax.devices())} devices of "
            f"{jax.process_count()} processes, but each process must use all of its "
            "own: set one of them to -1"
        )
    mesh = _mesh(axes._asdict())
    replicated = NamedSharding(mesh, PartitionSpec())
    batches = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    placement = Placement(axes, config.min_shard_elements, rules(config.rules))
    return Mesh(replicated, replicated, batches, batches, count, placement)


def _sizes(asked: Axes, available: int) -> Axes:
    """`asked` with a -1 replaced by the devices that the other axes leave."""
    for name, size in asked._asdict().items():
        if size != -1 and not 1 <= size <= available:
            raise ConfigError(
                f"mesh.{name}={size} must be -1 or between 1 and the {available} "
                "devices here"
            )
    given = Axes(*(1 if size == -1 else size for size in asked))
    rest = [name for name, size in asked._asdict().items() if size == -1]
    if len(rest) > 1:
        raise ConfigError(
            f"{' and '.join(f'mesh.{name}=-1' for name in rest)}: only one can take "
            "the remaining devices"
        )
    left, over = divmod(available, math.prod(given))
    if rest and over:
        raise ConfigError(
            f"{_text(given)} must divide the {available} devices here, since "
            f"mesh.{rest[0]}=-1 takes those that are left"
        )
    if not left:
        raise ConfigError(f"{_text(given)} is more than the {available} devices here")
    return given._replace(**{name: left for name in rest})


def _text(axes: Axes) -> str:
    sizes = {name: size for name, size in axes._asdict().items() if size != 1}
    sizes = sizes or {"data": axes.data}
    return " times ".join(f"mesh.{name}={size}" for name, size in sizes.items())


def population_mesh(devices: int, members: int) -> Mesh:
    """The same devices for a population, whose members are spread over them.

    Devices left over split the batches of each member, whose state they all hold:
    `fsdp` and `model` are for models too large for that.
    """
    spread = math.gcd(devices, members)
    mesh = _mesh({"members": spread, "data": devices // spread})

    def sharding(*spec: str | None) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*spec))

    return Mesh(
        replicated=sharding(),
        own=sharding("members"),
        batches=sharding("members", None, "data"),
        eval_batches=sharding(None, "data"),
        devices=devices,
        placement=Placement(),
    )


def population_size(devices: int, members: int) -> int:
    """`members`, rounded up to spread evenly over as many devices as it can."""
    spread = max(d for d in range(1, devices + 1) if devices % d == 0 and d <= members)
    return -(-members // spread) * spread


def _mesh(axes: dict[str, int]) -> jax.sharding.Mesh:
    devices = jax.devices()[: math.prod(axes.values())]
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=types, devices=devices
    )
