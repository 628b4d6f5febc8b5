"""One job from its composed configuration to its finished folder."""

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import jax
from omegaconf import DictConfig

from runner.config.hydra_files import to_yaml
from runner.config.hydra_job import HydraJob
from runner.core.program import Program
from runner.core.run import Host, Run
from runner.core.shapes import start_shapes
from runner.errors import Finished, Unwritable
from runner.job.build import build
from runner.job.checkpoint import Checkpoints
from runner.job.interruption import Interruption
from runner.job.prepared import Prepared, prepare, set_up
from runner.job.processes import Processes, connected
from runner.job.session import Session
from runner.job.witness import witness_facts, witness_of


def run_job(
    cfg: DictConfig,
    composed: HydraJob,
    last_words: Sequence[Callable[[str], None]] = (),
) -> float:
    """Build, train and record one job.

    Args:
      cfg: the composed configuration.
      composed: what else Hydra knows about it.
      last_words: called with the message of another process of the run whose failure
        ends this one.

    Returns:
      the final value of the metric that `cfg.objective` names; NaN if nothing is
      trained, because `cfg.print` asks for something else.

    Raises:
      ConfigError, TrainingStopped: also recorded in summary.json.
    """
    with connected(cfg, last_words) as processes:
        if not processes.is_first:  # Hydra has made the folder
            with contextlib.suppress(OSError):  # process 0's isn't empty
                composed.folder.rmdir()
        folder = Path(processes.agree("folder", str(composed.folder.absolute())))
        composed = composed._replace(folder=folder)
        session = Session(processes)
        if cfg.print is not None:
            try:
                _print(cfg, session)
            finally:
                _discard(folder)
            return math.nan

        def begin(run: Run) -> None:
            session.program(run.spec, run.values, run.timetable)

        try:
            job = prepare(cfg, composed, session, quiet=False, begin=begin)
        except Finished as done:
            if processes.is_first:
                print(done, file=sys.stderr)
            return done.result
        if not processes.is_first:
            job.recorder.follow()
            train_recorded(job, session, job.recorder.track)
            return job.result
        trace = contextlib.nullcontext()
        if cfg.train.profile:
            trace = jax.profiler.trace(str(folder / "profile"))
        with job.recorder, trace:
            train_recorded(job, session, job.recorder.row)
        return job.result


def _discard(folder: Path) -> None:
    """Remove the folder that Hydra has made, and what it has made around it."""
    # Until something else is there, or all that is within the working folder is gone.
    with contextlib.suppress(OSError, ValueError):
        folder.rmdir()
        for parent in folder.relative_to(Path.cwd()).parents[:-1]:
            parent.rmdir()


def _print(cfg: DictConfig, session: Session) -> None:
    """Show what `cfg.print` asks for, of a run that isn't trained."""
    from runner.job.model_table import print_model
    from runner.job.sharding import print_sharding

    set_up(cfg, session)
    run = build(cfg, session).run
    out = sys.stdout if session.processes.is_first else StringIO()
    if cfg.print == "config":
        out.write(to_yaml(run.config | {"print": None}))
        return
    shown = {"sharding": print_sharding, "model": print_model}
    program = session.program(run.spec, run.values, run.timetable)
    shown[cfg.print](run, program, out)


def train_recorded(
    job: Prepared, session: Session, write: Callable[[dict], None]
) -> None:
    """Train `job`, whose recorder is entered or follows, and `write` its rows.

    Raises:
      TrainingStopped: a loss isn't finite; or Refused, by its witness.
      Unwritable: its folder can't be written any more.
      Preempted: a signal ended it.
    """
    try:
        _train_recorded(job, session, write)
    except Unwritable as error:
        job.tell_what_is_safe(error, job.checkpoints.folder)
        raise


def _train_recorded(
    job: Prepared, session: Session, write: Callable[[dict], None]
) -> None:
    spec, values = job.run.spec, job.run.values
    program = session.program(spec, values, job.run.timetable)
    start = job.checkpoints.start
    witness = witness_of([job.run], program, start.step if start else 0, session)
    job.recall()
    checkpoints, processes = job.checkpoints, session.processes
    with Interruption(processes) as interruption, checkpoints:
        host = host_of(
            lambda index, row: write(row),
            lambda index, row: job.stops(row),
            lambda index, *end: job.finish(*end, is_first=processes.is_first),
            lambda: checkpoints.best(start_shapes(spec, values), spec.description),
            checkpoints,
            interruption,
            processes,
        )
        host = replace(host, may_stop=job.stop.is_on, looks=bool(job.callbacks))
        if processes.is_first:
            host = replace(host, look=lambda index, *given: job.callbacks(*given))
        try:
            session.train(job.run, host, start, witness)
        finally:
            job.recorder.finish(program_facts(program) | witness_facts(witness))


def host_of(
    write: Callable[[int, dict], None],
    stop: Callable[[int, dict], bool],
    finish: Callable[[int, dict, dict], None],
    best: Callable[[], Any],
    checkpoints: Checkpoints,
    interruption: Interruption,
    processes: Processes,
) -> Host:
    """A `Host` that saves `checkpoints` and stops at an `interruption`."""
    return Host(
        write=write,
        stop=stop,
        finish=finish,
        best=best,
        wants=checkpoints.wants,
        save=checkpoints.save,
        stopping=interruption.stopping,
        agree=processes.agree,
        dispatched=processes.dispatched,
    )


def program_facts(program: Program) -> dict[str, Any]:
    """The facts about a program in the summary of its run."""
    return {
        "compile_seconds": round(program.compile_seconds(), 3),
        "steps_per_call": program.cut.steps,
        "flops_per_step": program.flops,
    }
