"""State that the jobs of one process share."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner.config.instantiate import resolved
from runner.core.program import Program, compile_program
from runner.core.program_spec import ProgramSpec
from runner.core.run import BLIND, Host, Run, Witness
from runner.core.snapshot import Start
from runner.core.step import Values
from runner.core.timetable import Timetable
from runner.core.train import train
from runner.job.part import part
from runner.job.processes import Processes

# A sweep's jobs have one data set and a few programs between them, but a process may
# see many, and they may be large.
MOST = 16


class Session:
    """Keeps what jobs share: data sets, compiled programs, results of checks.

    Of each kind the `most` that were used last are kept; an older one is made again
    when it is needed. Threads may share a session.

    Attributes:
      processes: those that train one run with this one.
      folder: that of a sweep, which records the choices made for its programs.
    """

    def __init__(
        self,
        processes: Processes | None = None,
        most: int = MOST,
        folder: Path | None = None,
    ):
        self.processes = processes or Processes()
        self.folder = folder
        self._most = most
        self._kept: dict[Hashable, OrderedDict[Hashable, Any]] = {}
        self._lock = threading.Lock()

    def keep(self, key: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
        """Return what is kept as `key`, which begins with a kind, or else `make` it.

        Two threads that ask at the same time may both make it; the first one's is kept.
        """
        with self._lock:
            kind = self._kept.setdefault(key[0], OrderedDict())
            if key in kind:
                kind.move_to_end(key)
                return kind[key]
        made = make()
        with self._lock:
            made = kind.setdefault(key, made)
            while len(kind) > self._most:
                kind.popitem(last=False)
        return made

    def made(self, cfg: DictConfig, group: str, **given: Any) -> Any:
        """Like `part`, but reuses what this session has made for the same arguments."""
        return self.keep(
            (group, described(cfg, group), json.dumps(given, default=str)),
            lambda: part(cfg, group, **given),
        )

    def program(
        self,
        spec: ProgramSpec,
        values: Values,
        timetable: Timetable,
        members: int | None = None,
    ) -> Program:
        """The program of `spec`, which is compiled in the background.

        Args:
          spec: what it is made from.
          values: of one run; only their shapes and types matter.
          timetable: decides the lengths of its calls.
          members: of a population; None for one run alone.
        """
        return self.keep(
            ("program", spec.key, timetable, members),
            lambda: compile_program(spec, values, timetable, members, self.keep),
        )

    def train(
        self,
        run: Run,
        host: Host,
        start: Start | None = None,
        witness: Witness = BLIND,
    ) -> None:
        """Train `run` alone.

        Raises:
          TrainingStopped: a loss isn't finite; or what `host` raised.
        """
        program = self.program(run.spec, run.values, run.timetable)
        for _, error in train(program, [run], host, start, witness=witness):
            if error:
                raise error


def described(cfg: DictConfig, group: str) -> str:
    """The section `group` of `cfg`, resolved, as text that identifies it."""
    # Not sorted: in `optimizer.groups`, the order decides.
    return json.dumps(resolved(cfg, group), default=str)
