"""The interface of a tracker, which gets a copy of a run folder."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runner.record.untrusted import read_foreign


class Source(NamedTuple):
    """The run that is mirrored, as its folder has it.

    Attributes:
      folder: the run's.
      config: the contents of config.json.
      provenance: those of provenance.json.
      trainer: the process that trains it now; None if that is over.
    """

    folder: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    trainer: int | None = None

    @property
    def identity(self) -> str:
        """The name of the run in a tracker: the same for each copy of the folder."""
        recorded = self.provenance.get("wandb_id")
        if isinstance(recorded, str) and recorded:
            return recorded
        text = json.dumps([self.config, self.provenance], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def source(folder: Path, trainer: int | None = None) -> Source:
    """The run in `folder`.

    Raises:
      OSError, ValueError: it isn't one, or can't be read.
    """
    provenance = folder / "provenance.json"
    return Source(
        folder,
        read_foreign(folder / "config.json"),
        read_foreign(provenance) if provenance.exists() else {},
        trainer,
    )


def tested(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the test splits, which no row has."""
    final = summary.get("final", {})
    return {name: value for name, value in final.items() if name.startswith("test/")}


class Tracker:
    """A tracker's copy of one run. Its methods are called in this order, in one thread.

    What a method raises is reported, and ends this mirror; `python -m runner.mirror`
    makes it whole. Arguments beside `source` are those in the tracker's YAML file.

    Attributes:
      label: its name, as people read it.
      package: the module that it needs, if it isn't one that runner has anyway.
      processes: among how many the copies of a large sweep's runs may be shared.
      where: where the copy is, for people.
      problem: what it lacks, if anything.
    """

    label = ""
    package: str | None = None
    processes = 1
    where = ""
    problem = ""

    def __init__(self, source: Source):
        self.source = source

    @classmethod
    def load(cls) -> None:
        """Do what is slow before the first run needs it; that reports any failure."""
        if cls.package:
            importlib.import_module(cls.package)

    @classmethod
    def is_wanted(cls, config: Mapping[str, Any]) -> bool:
        """Whether a run with this configuration is to have a copy at all."""
        return True

    def open(self) -> int:
        """Begin, or continue. Returns the last step that the copy has, -1 if none."""
        return -1

    def row(self, row: Mapping[str, Any]) -> None:
        """Add a row, which has a higher `step` than those before."""

    def file(self, path: Path, step: int) -> None:
        """Add a file that a callback, after which its folder is named, has left."""

    def flush(self) -> None:
        """Let people see the rows so far: these are all, for a while."""

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """End with the contents of summary.json; the status may be "killed"."""

    def close(self) -> None:
        """Release what `open` has taken, after an error too."""
