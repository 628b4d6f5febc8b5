"""One job from its composed configuration to its finished folder."""

import contextlib
import math
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
from omegaconf import DictConfig, OmegaConf

from runner.checks.fingerprints import Examples, identify
from runner.config.explain import explain
from runner.config.hydra_files import to_yaml
from runner.config.hydra_job import HydraJob
from runner.core.compiling import Compiling
from runner.core.mesh import devices
from runner.core.program import Program
from runner.core.run import Host, Run
from runner.core.shapes import start_shapes
from runner.errors import ConfigError, Finished, Unwritable
from runner.job import checkpoint, determinism, restore
from runner.job.build import Built, build
from runner.job.callbacks import Callbacks
from runner.job.check import listed
from runner.job.checkpoint import Checkpoints
from runner.job.interruption import Interruption
from runner.job.processes import Processes, connected
from runner.job.resume import checkpoint_facts, resume, with_choice
from runner.job.session import Session, described
from runner.job.stop import Stop
from runner.job.trackers import trackers_of
from runner.job.witness import witness_facts, witness_of
from runner.record import compiled
from runner.record.code import Code
from runner.record.files import to_json, write_json, writing
from runner.record.mirrors import helper
from runner.record.provenance import JAX_OPTIONS, PACKAGES, provenance
from runner.record.recorder import Recorder, kept_rows, write_trace
from runner.record.secrets import scrub
from runner.record.state import save_state
from runner.record.untrusted import one_line
from runner.settings import CheckpointSettings
from runner.tasks.task import directions


class Prepared(NamedTuple):
    """A job that is ready to train.

    Attributes:
      run: what is trained.
      recorder: writes its folder; not entered yet.
      checkpoints: those in its folder, and the one that it starts from.
      objective: the metric whose final value is the job's result.
      stop: decides whether it ends early.
      callbacks: called after its evaluations, by the first process.
    """

    run: Run
    recorder: Recorder
    checkpoints: Checkpoints
    objective: str
    stop: Stop
    callbacks: Callbacks

    def recall(self) -> None:
        """Let `stop` see the rows that the run keeps from an earlier process."""
        if self.recorder.kept and self.stop.is_on:
            for row in kept_rows(self.recorder.kept):
                self.stop.reason(row)

    def stops(self, row: dict[str, Any]) -> bool:
        """Whether the run ends with `row`, and if so, record why; see `Host.stop`."""
        reason = self.stop.reason(row)
        if reason:
            self.recorder.finish({"stopped": reason})
        return reason is not None

    def finish(
        self, state: dict[str, Any], numbers: dict[str, float], is_first: bool = True
    ) -> None:
        """Record what the run ends with; see `Host.finish`."""
        self.recorder.test(numbers)
        if is_first:
            with writing(self.recorder.folder):
                save_state(self.recorder.folder, state)

    def tell_what_is_safe(self, error: Unwritable, folder: Path) -> None:
        """Add to `error` what the run has left, its checkpoints in `folder` too."""
        rows, step = self.recorder.folder / "metrics.jsonl", self.recorder.final
        error.safe = checkpoint.safe(rows, step.get("step", 0), folder)

    @property
    def result(self) -> float:
        """The final value of `objective`."""
        return self.recorder.final[self.objective]


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
            _print(cfg, session)
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


def _print(cfg: DictConfig, session: Session) -> None:
    """Show what `cfg.print` asks for, of a run that isn't trained."""
    from runner.job.model_table import print_model
    from runner.job.sharding import print_sharding

    _set_up(cfg, session)
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


def prepare(
    cfg: DictConfig,
    composed: HydraJob,
    session: Session,
    *,
    quiet: bool,
    begin: Callable[[Run], None] = lambda run: None,
    most: int = 1,
) -> Prepared:
    """Build one job, without compiling anything.

    Args:
      cfg: the composed configuration.
      composed: what else Hydra knows about it.
      session: what it shares with other jobs.
      quiet: show neither its progress nor its summary.
      begin, most: see `build`.

    Raises:
      ConfigError: also recorded in the folder's summary.json, like any other error.
      Finished: the folder holds it already.
    """
    folder, choices, overrides, sweep, started = composed
    processes = session.processes
    _code(session, started)  # which is found out meanwhile
    try:
        if cfg.print is not None:
            raise ConfigError(f"print={cfg.print} is for a single run, not for a sweep")
        trackers = trackers_of(cfg)
        if processes.is_first:
            helper.prepare(trackers, {"wandb": {"mode": cfg.wandb.mode}})
        cfg = with_choice(cfg, folder)
        _set_up(cfg, session)
        before = checkpoint_facts(folder) if cfg.init_from is not None else {}
        earlier = before.get("init_from")
        built, digests = built_and_identified(cfg, session, begin, most, earlier)
        missing = built.taken.missing if built.taken else ""
        if missing:
            digests |= {"initial_parameters": before.get("initial_parameters")}
        record = fingerprints_and_provenance(built, digests, session, started)
        asked = listed(cfg, "callbacks")
        callbacks = Callbacks(cfg, asked, built.run.spec, session, folder)
        resumed = resume(built.cfg, built.run, folder, record, sweep is not None)
        if missing and not (resumed and resumed.start):
            raise ConfigError(missing)
        processes.barrier("resumed")  # from here on process 0 writes there
    except Finished:
        raise
    except Exception as error:
        if processes.is_first:
            _write_failure(folder, error)
        raise
    run = built.run
    if built.taken is not None and processes.is_first and not quiet and not resumed:
        print(one_line(built.taken.text))
    wandb_id = os.environ.get("WANDB_RUN_ID") or (resumed and resumed.wandb_id)
    named = {"sweep": sweep} if sweep else {}
    recorder = Recorder(
        folder,
        config=run.config
        | {"optimizer_probe": record["optimizer_probe"]}
        | {"hydra": {"choices": dict(choices), "overrides": list(overrides)} | named},
        directions=directions(run.spec.task),
        provenance=record
        | {"directions": directions(run.spec.task)}
        | {"wandb_id": wandb_id or secrets.token_hex(4)}
        | {"restarts": resumed.restarts if resumed else []}
        | {"changes": resumed.changes if resumed else []},
        trackers=trackers,
        total_steps=len(run.learning_rates),
        quiet=quiet,
        kept=resumed.kept if resumed else None,
    )
    if resumed:
        recorder.finish({"restarts": len(resumed.restarts)})
    settings = OmegaConf.to_object(cfg.checkpoint)
    assert isinstance(settings, CheckpointSettings)
    checkpoints = Checkpoints(
        recorder.folder / restore.FOLDER,
        settings,
        cfg.objective,
        lambda step: to_json(checkpoint_record(run, step) | recorder.state()),
        resumed.start if resumed else None,
        processes,
    )
    stop = Stop(run.settings.stop, directions(run.spec.task))
    return Prepared(run, recorder, checkpoints, cfg.objective, stop, callbacks)


def built_and_identified(
    cfg: DictConfig,
    session: Session,
    begin: Callable[[Run], None] = lambda run: None,
    most: int = 1,
    earlier: dict[str, Any] | None = None,
) -> tuple[Built, dict[str, Any]]:
    """A run, and its digests, which are found while it is verified: see `identify`.

    Args and raises: see `build`.
    """
    digests: dict[str, Any] = {}

    def begun(run: Run, init: Compiling) -> None:
        examples = session.keep(
            ("examples", described(cfg, "data"), cfg.validation),
            lambda: Examples(run.spec.dataset, run.values.key),
        )
        begin(run)
        digests.update(identify(run, init.result(), examples))

    return build(cfg, session, begun, most, earlier), digests


def fingerprints_and_provenance(
    built: Built, digests: Mapping[str, Any], session: Session, started: Path = Path()
) -> dict[str, Any]:
    """The facts that identify a run: what it computes, and where it comes from.

    `started` is where its command was given; by default the working folder.
    """
    run, found = built.run, built.found
    digests = {**digests, "optimizer_probe": found.probe, "optax": found.optax}
    if built.taken is not None:
        digests["init_from"] = built.taken.facts
    return digests | provenance(
        _code(session, started).facts(),
        backend=jax.default_backend(),
        devices=[d.device_kind for d in jax.devices()[: run.spec.mesh.devices]],
        jax_options={name: getattr(jax.config, name, None) for name in JAX_OPTIONS},
        program_key=run.spec.key,
        argv=sys.argv,
        choice=run.choice._asdict(),
    )


def _code(session: Session, folder: Path) -> Code:
    folder = folder.absolute()
    return session.keep(("code", folder), lambda: Code(folder, PACKAGES))


def checkpoint_record(run: Run, step: int) -> dict[str, Any]:
    """The facts that decide whether a run can continue from a checkpoint."""
    return {
        "program": scrub(run.spec.description),
        "timetable": run.timetable,
        "learning_rates": checkpoint.digest(run.learning_rates[:step]),
    }


def _set_up(cfg: DictConfig, session: Session) -> None:
    """Set what JAX must know before anything is computed."""
    session.keep(
        ("deterministic", cfg.deterministic),
        lambda: determinism.set_up(cfg.deterministic),
    )
    jax.config.update("jax_debug_nans", cfg.train.debug_nans)
    compiled.set_up(cfg.compilation_cache)
    devices()


def _write_failure(folder: Path, error: Exception) -> None:
    """Explain in the folder, which Hydra has created, why it is empty."""
    if (folder / "metrics.jsonl").exists():
        return  # not empty: the summary of an earlier run is still true
    message = " ".join(explain(error).split())
    summary = {"status": "failed", "error": f"{type(error).__name__}: {message}"}
    write_json(folder / "summary.json", scrub(summary))
    write_trace(folder, error)
