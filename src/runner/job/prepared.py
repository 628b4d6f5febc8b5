"""A job that is ready to train, from its composed configuration."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig, OmegaConf

from runner.checks.fingerprints import Examples, identify
from runner.config.explain import explain
from runner.config.hydra_job import HydraJob
from runner.core.compiling import Compiling
from runner.core.mesh import devices
from runner.core.run import Run
from runner.errors import ConfigError, Finished, Unwritable
from runner.job import checkpoint, determinism, restore
from runner.job.build import Built, build
from runner.job.callbacks import Callbacks
from runner.job.check import check_direction, listed
from runner.job.checkpoint import Checkpoints
from runner.job.resume import checkpoint_facts, resume, with_choice
from runner.job.session import Session, described
from runner.job.stop import Stop
from runner.job.trackers import trackers_of
from runner.record import compiled
from runner.record.code import Code
from runner.record.files import to_json, write_json, writing
from runner.record.mirrors import helper
from runner.record.provenance import PACKAGES, provenance
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
                digest = save_state(self.recorder.folder, state)
            self.recorder.finish({"state_sha256": digest})

    def tell_what_is_safe(self, error: Unwritable, folder: Path) -> None:
        """Add to `error` what the run has left, its checkpoints in `folder` too."""
        rows, step = self.recorder.folder / "metrics.jsonl", self.recorder.final
        error.safe = checkpoint.safe(rows, step.get("step", 0), folder)

    @property
    def result(self) -> float:
        """The final value of `objective`."""
        return self.recorder.final[self.objective]


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
    folder, choices, overrides, sweep, started, direction = composed
    processes = session.processes
    _code(session, started)  # which is found out meanwhile
    try:
        if cfg.print is not None:
            raise ConfigError(f"print={cfg.print} is for a single run, not for a sweep")
        trackers = session.keep(
            ("trackers", described(cfg, "tracker")), lambda: trackers_of(cfg)
        )
        if processes.is_first:
            helper.prepare(trackers, {"wandb": {"mode": cfg.wandb.mode}})
        cfg = with_choice(cfg, folder)
        set_up(cfg, session)
        before = checkpoint_facts(folder) if cfg.init_from is not None else {}
        earlier = before.get("init_from")
        built, digests = built_and_identified(cfg, session, begin, most, earlier)
        check_direction(direction, cfg.objective, built.run.spec.task)
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
    if processes.is_first:
        rates, repeated = run.learning_rates, record["in_training_too"]
        for text in _warnings(rates, run.config["schedule"], repeated):
            # Once for all jobs of a sweep that it is true of.
            session.keep(("warned", text), lambda text=text: _warn(text))
    if built.taken is not None and processes.is_first and not quiet and not resumed:
        print(one_line(built.taken.text))
    wandb_id = os.environ.get("WANDB_RUN_ID") or (resumed and resumed.wandb_id)
    named = {"sweep": sweep} if sweep else {}
    recorder = Recorder(
        folder,
        config=run.config
        | {"optimizer_probe": record["optimizer_probe"]}
        | {"hydra": {"choices": dict(choices), "overrides": list(overrides)} | named},
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
        digests.update(identify(run, init.result(), examples, session.keep))

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
        devices=run.spec.mesh.devices,
        program_key=run.spec.key,
        choice=run.choice._asdict(),
    )


def checkpoint_record(run: Run, step: int) -> dict[str, Any]:
    """The facts that decide whether a run can continue from a checkpoint."""
    return {
        "program": scrub(run.spec.description),
        "timetable": run.timetable,
        "learning_rates": checkpoint.digest(run.learning_rates[:step]),
    }


def set_up(cfg: DictConfig, session: Session) -> None:
    """Set what JAX must know before anything is computed.

    Raises:
      ConfigError: JAX is told to compile nothing.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        raise ConfigError(
            "JAX_DISABLE_JIT is set, and a run is a compiled program: unset it. "
            "jax.debug.print and train.debug_nans=true show what a step computes"
        )
    session.keep(
        ("deterministic", cfg.deterministic),
        lambda: determinism.set_up(cfg.deterministic),
    )
    jax.config.update("jax_debug_nans", cfg.train.debug_nans)
    compiled.set_up(cfg.compilation_cache)
    devices()


def _code(session: Session, folder: Path) -> Code:
    folder = folder.absolute()
    return session.keep(("code", folder), lambda: Code(folder, PACKAGES))


def _warnings(
    rates: np.ndarray, schedule: Mapping[str, Any], repeated: Mapping[str, int]
) -> Iterator[str]:
    """What is odd about a run, but may be meant."""
    # A schedule in epochs may end long before its run; many end with a single 0.
    learned, steps = int(np.flatnonzero(rates)[-1]) + 1, len(rates)
    if steps - learned > 1:
        yield (
            f"the learning rate is 0 after step {learned}: nothing is learned in "
            f"{steps - learned} of {steps} steps"
        )
    base = schedule.get("base") or schedule  # of reduce_on_plateau
    peak = base.get("peak_value")
    # What a user's own function means by its arguments isn't known.
    is_known = str(base["_target_"]).startswith(("optax.", "runner."))
    if is_known and isinstance(peak, int | float) and rates.max() < peak * (1 - 1e-6):
        yield (
            f"none of the run's {steps} steps has the learning rate "
            "schedule.peak_value: its warm-up doesn't end before the run does"
        )
    for split, count in repeated.items():
        yield f"{count} examples of the split {split} are in train too"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _write_failure(folder: Path, error: Exception) -> None:
    """Explain in the folder, which Hydra has created, why it is empty."""
    if (folder / "metrics.jsonl").exists():
        return  # not empty: the summary of an earlier run is still true
    message = " ".join(explain(error).split())
    summary = {"status": "failed", "error": f"{type(error).__name__}: {message}"}
    write_json(folder / "summary.json", scrub(summary))
    write_trace(folder, error)
