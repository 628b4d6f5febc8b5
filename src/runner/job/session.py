"""State that the jobs of one process share."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.config.instantiate import call, section
from runner.core.program import Population, Program, ProgramSpec, compile_program
from runner.core.run import Host, Run
from runner.core.snapshot import Start
from runner.core.step import Values
from runner.core.train import train
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
    """

    def __init__(self, processes: Processes | None = None, most: int = MOST):
        self.processes = processes or Processes()
        self._most = most
        self._kept: dict[Hashable, OrderedDict[Hashable, Any]] = {}
        self._lock = threading.Lock()
        self._ahead: set[Hashable] = set()  # compiled, but not used yet

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
        """Like `call`, but reuses what this session has made for the same arguments."""
        return self.keep(
            (group, described(cfg, group), json.dumps(given, default=str)),
            lambda: call(cfg, group, **given),
        )

    def program(
        self,
        spec: ProgramSpec,
        values: Values,
        population: Population | None = None,
        *,
        ahead: bool = False,
    ) -> Program:
        """The compiled program of `spec`.

        Args:
          spec: what it is made from.
          values: of one run; only their shapes and types matter.
          population: None for one run alone.
          ahead: whether to compile it before its first use, which still reports the
            compile time. `compile_seconds` is 0 in every later use.
        """
        key = "program", spec.key, population
        made: list[bool] = []

        def make() -> Program:
            made.append(True)
            return compile_program(spec, values, population, self.keep)

        program = self.keep(key, make)
        with self._lock:
            is_first = bool(made) or key in self._ahead
            if ahead and is_first:
                self._ahead.add(key)
            elif is_first:
                self._ahead.discard(key)
        return program if is_first else program._replace(compile_seconds=0.0)

    def train(self, run: Run, host: Host, start: Start | None = None) -> None:
        """Train `run` alone.

        Raises:
          TrainingStopped: a loss isn't finite; or what `host` raised.
        """
        program = self.program(run.spec, run.values)
        for _, error in train(program, [run], host, start):
            raise error


def described(cfg: DictConfig, group: str) -> str:
    """The resolved section `group` of `cfg`, as text that identifies it."""
    node = OmegaConf.to_container(section(cfg, group), resolve=True)
    return json.dumps(node, sort_keys=True, default=str)
