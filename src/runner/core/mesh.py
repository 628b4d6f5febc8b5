"""The device mesh, and where arrays live on it."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from runner.errors import ConfigError
from runner.settings import MeshSettings


class Mesh(NamedTuple):
    """Shardings of a program's arguments and results.

    Attributes:
      replicated: whole on every device.
      own: for metric rows and for a run's own values other than its state.
      batches: for training batches, whose examples are split over all devices; in a
        population over the devices of each member.
      eval_batches: likewise for evaluation batches, which a population shares.
      devices: the number of devices.
      fsdp: the number of them that an array of the state may be split over.
      min_shard_elements: the smallest size of an array that is split.
      rules: pairs of a pattern and the axes of the arrays whose paths it matches, which
        come before that.
    """

    replicated: NamedSharding
    own: NamedSharding
    batches: NamedSharding
    eval_batches: NamedSharding
    devices: int
    fsdp: int
    min_shard_elements: int
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def state(self, shapes: Any) -> Any:
        """The sharding of each array of a state, or of anything shaped like its parts.

        It depends on shapes, and on paths by `rules`, which end like those of the
        parameters in the optimizer's state too: moments are placed like parameters.
        """
        if self.fsdp == 1:
            return jax.tree.map(lambda _: self.own, shapes)

        def sharding(path, x):
            axes = self._ruled(path, x.shape)
            spec = split(x.shape, self.fsdp, self.min_shard_elements)
            return NamedSharding(
                self.own.mesh, spec if axes is None else PartitionSpec(*axes)
            )

        return jax.tree.map_with_path(sharding, shapes)

    def _ruled(self, path: Any, shape: tuple[int, ...]) -> tuple | None:
        """The axes that the first rule for `path` gives it, if they fit its shape."""
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, axes in self.rules:
            if re.search(pattern, name) and len(axes) == len(shape):
                sizes = zip(axes, shape, strict=True)
                if all(axis is None or size % self.fsdp == 0 for axis, size in sizes):
                    return axes
        return None

    def check_rules(self, params: Any) -> None:
        """Refuse rules that place no parameter.

        Args:
          params: the parameters, or their shapes.

        Raises:
          ConfigError: names the rule and the parameters.
        """
        leaves = jax.tree.leaves_with_path(params)
        for rule in self.rules if self.fsdp > 1 else ():
            alone = self._replace(rules=(rule,))
            if not any(alone._ruled(path, x.shape) for path, x in leaves):
                names = (
                    f"{jax.tree_util.keystr(path, simple=True, separator='/')} "
                    f"{list(x.shape)}"
                    for path, x in leaves
                )
                raise ConfigError(
                    f"mesh.rules: {rule[0]!r} with the axes {list(rule[1])} fits none "
                    f"of the parameters {', '.join(names)}"
                )

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


def split(shape: tuple[int, ...], fsdp: int, least: int) -> PartitionSpec:
    """The partition of an array over the axis `fsdp`, which has that many devices.

    An array of at least `least` elements is split along its largest dimension that
    `fsdp` divides, the first of equals. Any other is whole on every device.
    """
    divisible = [i for i, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < least or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda i: shape[i])
    return PartitionSpec(*[None] * largest, "fsdp")


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
    """The mesh of one run: axes `data` and `fsdp`, which split each batch together.

    Args:
      config: the `mesh` section.
      batch_size: the examples of a step over all devices.
      microbatches: the number that each batch is cut into.

    Raises:
      ConfigError: there aren't that many devices, or they don't divide the batch.
    """
    data, fsdp = _sizes(config.data, config.fsdp, len(jax.devices()))
    count = data * fsdp
    if microbatches < 1 or batch_size % (count * microbatches):
        raise ConfigError(
            f"data.batch_size={batch_size} must be divisible by the {count} devices of "
            f"mesh.data={config.data} and mesh.fsdp={config.fsdp} times "
            f"train.gradient_accumulation={microbatches}"
        )
    if jax.process_count() > 1 and count < len(jax.devices()):
        raise ConfigError(
            f"mesh.data={config.data} and mesh.fsdp={config.fsdp} use {count} of the "
            f"{len(jax.devices())} devices of {jax.process_count()} processes, but "
            "each process must use all of its own: set one of them to -1"
        )
    mesh = _mesh({"data": data, "fsdp": fsdp})
    replicated = NamedSharding(mesh, PartitionSpec())
    batches = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    least, rules = config.min_shard_elements, _rules(config.rules)
    return Mesh(replicated, replicated, batches, batches, count, fsdp, least, rules)


def _rules(given: Sequence[Any]) -> tuple:
    rules = []
    for rule in given:
        try:
            pattern, axes = rule
            re.compile(pattern)
            axes = tuple(axes)
            if axes.count("fsdp") != 1 or set(axes) - {None, "fsdp"}:
                raise ValueError
        except (TypeError, ValueError, re.error):
            raise ConfigError(
                f"mesh.rules: {rule} must be a regular expression and a list of axes, "
                "null or fsdp for each dimension, with fsdp once"
            ) from None
        rules.append((pattern, axes))
    return tuple(rules)


def _sizes(data: int, fsdp: int, available: int) -> tuple[int, int]:
    """`data` and `fsdp` with a -1 replaced by the devices that the other one leaves."""
    for name, size in (("data", data), ("fsdp", fsdp)):
        if size != -1 and not 1 <= size <= available:
            raise ConfigError(
                f"mesh.{name}={size} must be -1 or between 1 and the {available} "
                "devices here"
            )
    if data == fsdp == -1:
        raise ConfigError(
            "mesh.data=-1 and mesh.fsdp=-1: only one can take the remaining devices"
        )
    if -1 in (data, fsdp):
        name, given = ("fsdp", fsdp) if data == -1 else ("data", data)
        if available % given:
            raise ConfigError(
                f"mesh.{name}={given} must divide the {available} devices here, since "
                "the other axis is -1"
            )
        return (available // fsdp, fsdp) if data == -1 else (data, available // data)
    if data * fsdp > available:
        raise ConfigError(
            f"mesh.data={data} times mesh.fsdp={fsdp} is more than the {available} "
            "devices here"
        )
    return data, fsdp


def population_mesh(devices: int, members: int) -> Mesh:
    """The same devices for a population, whose members are spread over them.

    Devices left over split the batches of each member, whose state they all hold:
    `fsdp` is for models too large for that.
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
        fsdp=1,
        min_shard_elements=1,
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
