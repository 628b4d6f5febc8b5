"""The format of run folders: finding them, and refusing the first edition's."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.errors import ConfigError

FORMAT = 2

# An exported model has it in place of a summary.json, and is no run.
EXPORTED = "metrics.json"
# These folders of a run hold thousands of files and no other run.
_NOT_RUNS = {"wandb", "checkpoints", "profile", ".hydra", "tensorboard"}


def run_folders(path: Path) -> Iterator[Path]:
    """The run folders in and below `path`, with symbolic links in it resolved."""
    for folder, subfolders, files in os.walk(path.resolve()):
        is_run = "config.json" in files and EXPORTED not in files
        if is_run or "summary.json" in files:
            yield Path(folder)
            subfolders[:] = [s for s in subfolders if s not in _NOT_RUNS]


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
