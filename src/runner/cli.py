"""The command line: Hydra composes, `build` checks, `train` trains, `record` records.

Nothing heavy is imported before a job runs, so `--help` and `--cfg job` are quick.
"""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner import signals
from runner.cluster.plan import IN_TASK
from runner.config import conf
from runner.config.completion import complete_commands
from runner.config.explain import MISTAKES, explain, failure, safe, was_reported
from runner.config.hydra_files import hydra_files
from runner.config.hydra_job import hydra_job
from runner.config.ignored_files import refuse_ignored
from runner.config.quick_start import quick_start
from runner.config.shown import show_resolved
from runner.config.users_code import raised
from runner.config.whole_sweep import leave_to_jobs
from runner.errors import Preempted
from runner.record.files import mark_preempted
from runner.record.secrets import scrub_command


def main(commands: Sequence[str] = ()) -> None:
    """`python -m runner`: one job, or with `-m` one per combination.

    `commands` are what else the first argument may be, for a shell to complete.

    Exit status 0 when every job finished, 1 when one didn't, 130 after Ctrl-C, 75 (try
    again later) when a signal ended it and the same command can resume it: see
    `runner.job.interruption`.
    HYDRA_FULL_ERROR=1 shows the traceback of a mistake too.
    """
    # Imports and tracing make a million objects that stay. Python would search them for
    # garbage again and again, which takes a tenth of a start.
    gc.set_threshold(1_000_000, 50, 50)
    # Several threads trace at once, which costs a twentieth of a start if they take
    # turns of 5 ms. In seconds.
    sys.setswitchinterval(0.05)
    signals.last_word(job, _last_word)
    scrub_command(sys.argv)  # to know them in messages, however these show them
    sys.excepthook = _show
    hydra_files()
    quick_start()
    show_resolved()
    complete_commands(commands)
    leave_to_jobs()
    # A log that can't be written, on a full disk, would print a traceback at each line.
    logging.raiseExceptions = False
    # Hydra hides the traceback of every error, ours too, unless told otherwise.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    conf.register()
    start = hydra.main(
        version_base="1.3", config_path=str(conf.conf_dir()), config_name="config"
    )(job)
    try:
        start()
    except KeyboardInterrupt:
        signals.leave(130)
    except Preempted as stopped:
        signals.leave(stopped.code)
    except (Exception, SystemExit) as error:
        mistake = error.__cause__ if isinstance(error, SystemExit) else error
        if wants_traceback and mistake:
            _show(type(mistake), mistake, mistake.__traceback__)
        message = _message(error)
        if message is None:
            raise
        sys.exit(f"error: {safe(message)}")


def _show(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback, safe to show."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(safe(text), end="", file=sys.stderr)


def _last_word(error: BaseException) -> None:
    """Mark the folder of a run, and say how it continues."""
    composed = HydraConfig.get()
    folder = Path(composed.runtime.output_dir)
    if composed.mode == RunMode.MULTIRUN or not folder.is_dir():
        return
    mark_preempted(folder)
    signals.say(f"the same command with hydra.run.dir={folder} resumes it")


def _message(error: BaseException) -> str | None:
    """The message for a mistake; None for any other error."""
    if isinstance(error, MISTAKES):
        return explain(error)
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if job.__code__ in frames:
        return None
    if was_reported(error):  # with its traceback, when a job of a packed sweep failed
        return f"{type(error).__name__}: {error}"
    # From here on it is an error in Hydra, before any job of ours.
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):  # its log file's handler wraps it in a ValueError
        where = f"{cause.filename}: " if cause.filename else ""
        return (
            f"the run folder can't be written: {where}{cause.strerror}. Set "
            "hydra.run.dir (hydra.sweep.dir with -m) to a writable folder"
        )
    return explain(error) if isinstance(error, ValueError) else None


def job(cfg: DictConfig) -> float:
    """Run one composed job in its folder; returns the final value of `objective`."""
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    folder = HydraConfig.get().runtime.output_dir
    try:
        composed = hydra_job(cfg)
        refuse_ignored(HydraConfig.get().runtime.config_sources)
        if cfg.cluster.engine and IN_TASK not in os.environ:
            from runner.cluster.submit import submit

            signals.stand_back(signals.raised)
            return submit(cfg, composed)
        from runner.job.trackers import begin_mirroring

        begin_mirroring(cfg)
        from runner.job.run import run_job

        return run_job(cfg, composed)
    except Preempted as stopped:
        if not in_sweep:
            print(f"{stopped}; the same command with hydra.run.dir="
                  f"{folder} resumes it", file=sys.stderr)  # fmt: skip
        stopped.forward()
        raise
    except Exception as error:
        if in_sweep:  # Hydra reports only the first error, after the last job
            print(failure(HydraConfig.get().job.num, error), file=sys.stderr)
        elif isinstance(error, MISTAKES) or raised(error):
            # For an Exception, Hydra would print lines of its own.
            told = raised(error) or explain(error)
            raise SystemExit(f"error: {safe(told)}") from error
        raise
