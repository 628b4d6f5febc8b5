"""What may be handed to a cluster, through files in the run's folder."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.errors import ConfigError
from runner.record.secrets import scrub
from runner.trees import differences


def refuse_secrets(
    configs: Iterable[Mapping[str, Any]], overrides: Iterable[Sequence[str]]
) -> None:
    """Refuse values that a task needs, but that no file may hold.

    Args:
      configs: as plain values, with their interpolations.
      overrides: those of each job.

    Raises:
      ConfigError: names the first one.
    """
    for given in overrides:
        for raw, shown in zip(given, scrub(given), strict=True):
            if raw != shown:
                raise _refusal(shown)
    for config in configs:
        for key, _, shown in differences(config, scrub(config)):
            raise _refusal(f"{key}={shown}")


def _refusal(shown: str) -> ConfigError:
    key = shown.partition("=")[0]
    return ConfigError(
        f"{shown} would be written to a file, from which a cluster's tasks read their "
        f"configuration. Put it into an environment variable that they have too, and "
        f"name that: {key}=\\${{oc.env:NAME}}"
    )
