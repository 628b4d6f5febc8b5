"""One job from its composed configuration to its finished folder."""

import contextlib
import math
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
from omegaconf import DictConfig, OmegaConf

from runner.checks.fingerprints import identify
from runner.config.explain import explain
from runner.config.hydra_job import HydraJob
from runner.core.train import Run, compilation, train
from runner.errors import ConfigError
from runner.job import checkpoint, processes
from runner.job.build import build
from runner.job.checkpoint import Checkpoints
from runner.job.interruption import Interruption
from runner.job.resume import Resumed, resume
from runner.record import compilation_cache
from runner.record.files import to_json, write_json
from runner.record.mirrors import process
from runner.record.mirrors.wandb import WandbFields
from runner.record.provenance import provenance
from runner.record.recorder import Recorder
from runner.record.secrets import scrub
from runner.settings import CheckpointSettings

# What tells the runs of a sweep apart at a glance.
TAGGED = ("model", "framework", "optimizer", "schedule", "data")


class Prepared(NamedTuple):
    """A job that is ready to train.

    Attributes:
      run: what is trained.
      recorder: of its folder; not entered yet.
      checkpoints: in its folder, and the one that it starts from.
      objective: the metric whose final value is the job's result.
    """

    run: Run
    recorder: Recorder
    checkpoints: Checkpoints
    objective: str

    @property
    def result(self) -> float:
        """The final value of `objective`."""
        return self.recorder.final[self.objective]


def run_job(
    cfg: DictConfig,
    composed: HydraJob,
) -> float:
    """Build, train and record one job. The arguments are those of `prepare`.

    Returns:
      the final value of the metric that `cfg.objective` names; NaN if nothing is
      trained, because `cfg.print` asks for something else.

    Raises:
      ConfigError, TrainingStopped: in summary.json too.
    """
    with processes.connected(cfg):
        if not processes.is_first():  # Hydra has made the folder
            with contextlib.suppress(OSError):  # process 0's isn't empty
                composed.folder.rmdir()
        folder = Path(processes.agreed("folder", str(composed.folder.absolute())))
        composed = composed._replace(folder=folder)
        if cfg.print is not None:
            from runner.job.sharding import print_sharding

            print_sharding(_built(cfg), None if processes.is_first() else StringIO())
            return math.nan
        job = prepare(cfg, composed, quiet=False)
        if not processes.is_first():
            job.recorder.follow()
            train_recorded(job, job.recorder.track)
            return job.result
        trace = contextlib.nullcontext()
        if cfg.train.profile:
            trace = jax.profiler.trace(str(folder / "profile"))
        with job.recorder, trace:
            train_recorded(job, job.recorder.row)
        return job.result


def train_recorded(job: Prepared, write: Callable[[dict], None]) -> None:
    """Train `job`, whose recorder is entered, or follows; `write` gets its rows.

    Raises:
      TrainingStopped, Preempted: see `runner.core.train.train`.
    """
    job.recorder.finish(compilation(job.run))
    with Interruption() as interruption:
        train(job.run, write, job.checkpoints, interruption)


def prepare(
    cfg: DictConfig,
    composed: HydraJob,
    *,
    quiet: bool,
    begin: Callable[[Run], None] = lambda run: None,
) -> Prepared:
    """Build one job, short of compiling anything.

    Args:
      cfg: the composed configuration.
      composed: what else Hydra knows of it.
      quiet: show neither its progress nor its summary.
      begin: see `build`.

    Raises:
      ConfigError: in the folder's summary.json too, like any other error.
    """
    folder, choices, overrides, sweep = composed
    try:
        if cfg.print is not None:
            raise ConfigError(f"print={cfg.print} is for a single run, not for a sweep")
        wandb = wandb_settings(cfg, choices, overrides, sweep)
        if processes.is_first():
            process.prepare(wandb)
        run = _built(cfg, begin)
        identity = identify(run)
        run.static.entry.store()  # that was the last to add to it
        record = identity | provenance(
            backend=jax.default_backend(),
            devices=[d.device_kind for d in jax.devices()[: run.static.mesh.devices]],
            program_key=run.static.key,
            argv=sys.argv,
            folder=Path.cwd(),
        )
        resumed = resume(cfg, run, folder, record)
        processes.barrier("resumed")  # from here on process 0 writes there
    except Exception as error:
        _write_failure(folder, error)
        raise
    wandb_id = os.environ.get("WANDB_RUN_ID") or (resumed and resumed.wandb_id)
    wandb = wandb._replace(id=wandb_id or secrets.token_hex(4))
    recorder = Recorder(
        folder,
        config=run.config
        | {"optimizer_probe": identity["optimizer_probe"]}
        | {"hydra": {"choices": dict(choices), "overrides": list(overrides)}},
        provenance=record
        | {"wandb_id": wandb.id}
        | {"restarts": resumed.restarts if resumed else []}
        | {"changes": resumed.changes if resumed else []},
        wandb=wandb,
        total_steps=len(run.learning_rates),
        quiet=quiet,
        kept=resumed.kept if resumed else None,
    )
    if resumed:
        recorder.finish({"restarts": len(resumed.restarts)})
    checkpoints = _checkpoints(cfg, run, recorder, resumed)
    return Prepared(run, recorder, checkpoints, cfg.objective)


def _checkpoints(
    cfg: DictConfig, run: Run, recorder: Recorder, resumed: Resumed | None
) -> Checkpoints:
    settings = OmegaConf.to_object(cfg.checkpoint)
    assert isinstance(settings, CheckpointSettings)
    return Checkpoints(
        recorder.folder / checkpoint.FOLDER,
        settings,
        cfg.objective,
        lambda step: to_json(checkpoint_record(run, step) | recorder.state()),
        resumed.start if resumed else None,
    )


def checkpoint_record(run: Run, step: int) -> dict[str, Any]:
    """What tells whether a run can go on from a checkpoint after `step` of this one."""
    return {
        "program": scrub(run.static.description),
        "timetable": run.timetable,
        "learning_rates": checkpoint.digest(run.learning_rates[:step]),
    }


def _built(cfg: DictConfig, begin: Callable[[Run], None] = lambda run: None) -> Run:
    jax.config.update("jax_debug_nans", cfg.train.debug_nans)
    compilation_cache.set_up(cfg.compilation_cache)
    _check_devices()
    return build(cfg, begin)


def _check_devices() -> None:
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # jax's way to say: none at all
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise ConfigError(
            f"JAX has no device to run on, with JAX_PLATFORMS={platforms}: {error}"
        ) from error


def _write_failure(folder: Path, error: Exception) -> None:
    """Tell whoever finds the folder, which is Hydra's doing, why it is empty."""
    if not processes.is_first():
        return
    if (folder / "metrics.jsonl").exists():
        return  # it isn't: an earlier run's summary is no less true for our mistake
    told = " ".join(explain(error).split())
    summary = {"status": "failed", "error": f"{type(error).__name__}: {told}"}
    write_json(folder / "summary.json", scrub(summary))
    if not isinstance(error, ConfigError):
        text = "".join(traceback.format_exception(error))
        (folder / "error.txt").write_text(text, encoding="utf-8")


def wandb_settings(
    cfg: DictConfig,
    choices: Mapping[str, str],
    overrides: Sequence[str],
    sweep: str | None,
) -> WandbFields:
    """The `wandb` section, its nulls filled in so that a sweep is readable."""
    wandb = cfg.wandb
    return WandbFields(
        mode=wandb.mode,
        project=wandb.project,
        entity=wandb.entity,
        group=wandb.group or sweep,
        job_type=wandb.job_type or "train",
        # W&B's own limit is 128 characters.
        name=wandb.name or ",".join(overrides)[:128] or None,
        tags=tuple(wandb.tags or [f"{k}={choices[k]}" for k in TAGGED if k in choices]),
        notes=wandb.notes,
    )
