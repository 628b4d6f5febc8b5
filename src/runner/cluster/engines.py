"""The engine that the settings name."""

from pathlib import Path

from runner.cluster.engine import Engine
from runner.errors import ConfigError
from runner.settings import ClusterSettings


def engine(
    settings: ClusterSettings, folder: Path, name: str, processes: int
) -> Engine:
    """The engine that `settings` names, with its files in `folder`.

    Args:
      name: of what is submitted, as people see it in the queue.
      processes: how many a task has on each node.

    Raises:
      ConfigError: submitit isn't installed, or Slurm isn't.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"cluster={settings.engine} needs submitit: pip install submitit "
            "(it is in the extra slurm)"
        ) from None
    if settings.engine == "local":
        from runner.cluster.local import Local

        return Local(settings, folder)
    from runner.cluster.slurm import Slurm

    return Slurm(settings, folder, name, processes)
