"""The format of run folders, and refusing those of the first edition."""

from collections.abc import Mapping
from typing import Any

from runner.errors import ConfigError

FORMAT = 2


def check_format(config: Mapping[str, Any], source: object, purpose: str) -> None:
    """Refuse a configuration that today's program would not understand.

    Args:
      config: as it was recorded.
      source: where it is from.
      purpose: what can't be done with it, such as "resumed".

    Raises:
      ConfigError: it is of another format.
    """
    found = config.get("format", 1)  # the first edition recorded none
    if found != FORMAT:
        edition = "the first edition of runner" if found == 1 else "another runner"
        raise ConfigError(
            f"{source} is of format {found}, written by {edition}, and can't be "
            f"{purpose} by this one, which writes format {FORMAT}; runner.compare "
            "reads it"
        )
