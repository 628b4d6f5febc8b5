"""The rank of this process among those of its run."""

from typing import Any, NamedTuple

from omegaconf import DictConfig

from runner.errors import ConfigError
from runner.settings import DistributedSettings


class Rank(NamedTuple):
    """A process among those of its run. `address` is None where JAX finds it."""

    process: int
    size: int
    address: str | None


ALONE = Rank(0, 1, None)


def rank(settings: DistributedSettings) -> Rank:
    """The rank of this process, from the `distributed` section or the environment.

    Raises:
      ConfigError: the section is incomplete or contradicts itself.
    """
    given = {
        name: getattr(settings, name)
        for name in ("coordinator_address", "num_processes", "process_id")
    }
    missing = [name for name, value in given.items() if value is None]
    if not settings.enabled:
        return ALONE
    if len(missing) == 3:
        return _detected()
    if missing:
        raise ConfigError(
            f"distributed.{missing[0]} must be given with "
            f"distributed.{next(n for n in given if n not in missing)}, on each process"
        )
    address, count, index = given.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"distributed.coordinator_address={address} must be the host:port of "
            "process 0"
        )
    if not 0 <= index < count:
        raise ConfigError(
            f"distributed.process_id={index} must be at least 0 and less than "
            f"distributed.num_processes={count}"
        )
    return Rank(index, count, address) if count > 1 else ALONE


def _detected() -> Rank:
    """The rank that `jax.distributed.initialize` would detect by itself."""
    from jax._src.clusters import ClusterEnv  # there is no public name for this

    for env in ClusterEnv._cluster_types:
        if not env.opt_in_only_method and env.is_env_present():
            count = env.get_process_count()
            return Rank(env.get_process_id(), count, None) if count > 1 else ALONE
    return ALONE


def by_process(first: Any, others: Any, *, _root_: DictConfig) -> Any:
    """`${by_process:A,B}`: A on the process that records a run, the first or only one.

    B elsewhere, and where nothing is recorded since `print` asks for something else.
    """
    is_recorded = _root_.print is None and not rank(_root_.distributed).process
    return first if is_recorded else others
