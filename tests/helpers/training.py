"""Runs that are built and trained in this process, which share what they can."""

from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from runner.checks.trajectory import Trajectories
from runner.checks.verify import Found
from runner.core import choose, program
from runner.core.run import Host, Run
from runner.job.build import Built, build
from runner.job.session import Session

# Of all tests of this process: those that train the same program compile it once.
SESSION = Session(most=64)
_UNTRACED = Session(most=64)


def build_job(cfg: DictConfig) -> Built:
    """Build a run. With `verify=false` its optimizer isn't probed for a record either.

    That would trace two more steps, in float64, of each program, and no test reads it.
    """
    return build(cfg, SESSION) if cfg.verify else _without_probe(cfg, SESSION)


def _without_probe(cfg: DictConfig, session: Session) -> Built:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectories, "start", lambda self, verify: None)
        patch.setattr("runner.job.build._verified", lambda *given: Found(None, ""))
        return build(cfg, session)


def assemble_job(cfg: DictConfig) -> Run:
    """A run of which nothing is traced, nor checked: a test traces parts of it itself.

    Its convolutions are XLA's, unless it says how they are computed.
    """
    convolution = cfg.train.convolution.replace("auto", "native")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_refuse_too_large", "_check_groups", "check_metrics"):
            patch.setattr(f"runner.job.build.{name}", lambda *given: None)
        patch.setattr("runner.job.build.check_traces", lambda *given: [])
        patch.setattr(program, "init", lambda *given: None)
        chosen = choose.given(convolution)
        patch.setattr("runner.job.build.chosen", lambda *given: chosen)
        return _without_probe(cfg, _UNTRACED).run


def train_run(run: Run, write: Callable[[dict], None]) -> None:
    """Train to the end; `write` gets each row.

    Raises:
      TrainingStopped, or what `write` raises.
    """
    SESSION.train(run, Host(lambda index, row: write(row)))
