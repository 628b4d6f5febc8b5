"""Runs from Python, such as in a notebook: `from runner import run, run_sweep`."""

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import open_dict

from runner.cli import job
from runner.config import conf
from runner.config.explain import MISTAKES, explain, was_reported
from runner.config.hydra_files import hydra_files
from runner.config.hydra_job import facts
from runner.config.plain import plain
from runner.config.whole_sweep import leave_to_jobs
from runner.errors import ConfigError, TrainingStopped, refuse_one
from runner.job.run import run_job
from runner.record.files import writing
from runner.record.secrets import forgotten
from runner.saved.saved_run import SavedRun, load_run

if TYPE_CHECKING:
    import polars as pl

    from runner.compare.findings import Findings

_TIME = "${now:%H-%M-%S}"  # the end of the folders in conf/config.yaml
# Hydra is one for all threads: one composes at a time, and a sweep keeps it to its end.
_COMPOSING = threading.RLock()


@forgotten()
def run(
    overrides: Sequence[str] = (),
    *,
    folder: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> SavedRun:
    """Train one run in this process, as `python -m runner` with these overrides does.

    Args:
      overrides: such as `["optimizer=adam", "train.epochs=3"]`.
      folder: the run folder; by default that which `hydra.run.dir` names, or a new one.
        A run in it that was interrupted is resumed; one that has finished is returned
        as it is.
      config_dir: your own YAML files, as `--config-dir` has them.

    Returns:
      the run as its folder has it.

    Raises:
      ConfigError: the configuration can't run; the message says why.
      TrainingStopped: a loss isn't finite, the run doesn't do what it says, or its
        folder can't be written.
    """
    with _hydra(overrides, config_dir) as (hydra, given):
        cfg = hydra.compose_config("config", given, RunMode.RUN)
        place = _place(folder, cfg.hydra.run, given)
        composed = facts(cfg, cfg.hydra, place, sweep=None)
    for key, value in (("print", cfg.print), ("cluster.engine", cfg.cluster.engine)):
        if value is not None:
            raise ConfigError(f"{key}={value} is for the command line")
    with open_dict(cfg):
        del cfg["hydra"]
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    run_job(cfg, composed)
    # Its functions have just been called.
    return load_run(place, trust=True, config_dir=config_dir)


@forgotten()
def run_sweep(
    overrides: Sequence[str],
    *,
    folder: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> "pl.DataFrame":
    """Run the jobs of a sweep, as `python -m runner -m` with these overrides does.

    Args:
      overrides: such as `["optimizer=adam,sgd", "seed=0,1,2"]`.
      folder, config_dir: see `run`; the default folder is that of `hydra.sweep.dir`.

    Returns:
      a row for each job, those that failed too: its settings, `status`, and `final.`
      and `best.` of each metric, as `runner.compare` writes them into runs.parquet.

    Raises:
      ConfigError: the jobs can't be composed, or no job has left a folder.
    """
    from runner.compare.load import load

    leave_to_jobs()
    with _hydra(overrides, config_dir) as (hydra, given):
        master = hydra.compose_config("config", given, RunMode.MULTIRUN)
        place = _place(folder, master.hydra.sweep, given)
        try:
            hydra.multirun(
                "config", job, [*given, f"hydra.sweep.dir={conf.quoted(place)}"]
            )
        except Exception as error:
            if not was_reported(error):  # as it is of a job, beside which others ran
                raise
    return load([place]).table


def compare_runs(
    folders: Iterable[str | Path],
    *,
    by: str | None = None,
    metric: str | None = None,
    target: float | None = None,
) -> "Findings":
    """What `python -m runner.compare` finds about the runs in and below folders.

    It shows itself in a notebook; its `figures` are charts of altair.

    Args:
      by: what to compare, such as "optimizer"; by default the group that varies.
      metric: by default the objective of the runs.
      target: a value of the metric; also compare what it cost to reach it.

    Raises:
      ConfigError: no finished run, or no such factor or metric.
    """
    from runner.compare.analysis import analyse
    from runner.compare.findings import Findings
    from runner.compare.load import load

    refuse_one("folders", folders)
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ConfigError("folders must name at least one folder of runs")
    runs = load(paths)
    return Findings(runs, analyse(runs, by, metric, target))


def _place(folder: str | Path | None, asked: Any, given: Sequence[str]) -> Path:
    """`folder`, or what `asked.dir` names: a new one if that is just the time.

    It is in seconds, and from Python several runs may be started in one.
    """
    if folder is not None:
        if not str(folder).strip():
            raise ConfigError("folder= is empty, and must be the name of a folder")
        for other in given:
            if other.lstrip("+").startswith(("hydra.run.dir=", "hydra.sweep.dir=")):
                raise ConfigError(f"folder={folder} and {other} are both given")
        return Path(folder).absolute()
    first = Path(asked.dir).absolute()
    raw = plain(asked)
    if not raw["dir"].endswith(_TIME):
        return first
    others = (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))
    return next(p for p in itertools.chain([first], others) if not p.exists())


@contextlib.contextmanager
def _hydra(
    overrides: Sequence[str], config_dir: str | Path | None
) -> Iterator[tuple[Any, list[str]]]:
    """Hydra with our conf/, and the overrides that it gets.

    Raises:
      ConfigError: what Hydra refuses, as the command line explains it.
    """
    refuse_one("overrides", overrides)
    for override in overrides:
        if override.startswith("-"):
            raise ConfigError(
                f"{override} is an option of the command line: run_sweep stands for "
                "-m, and config_dir= for --config-dir"
            )
    conf.register()
    hydra_files()
    setup_globals()  # Hydra's own resolvers
    own = None if config_dir is None else Path(config_dir)
    given = [*overrides, *conf.search_path(own)]
    try:
        path = str(conf.conf_dir())
        with _COMPOSING, initialize_config_dir(path, version_base="1.3"):
            yield GlobalHydra.instance().hydra, given
    except TrainingStopped:
        raise
    except (*MISTAKES, ValueError) as error:  # the latter from Hydra, before any job
        raise ConfigError(explain(error, given)) from error
