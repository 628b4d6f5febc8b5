"""The runs of an audit: checked before any begins, packed, and reused where done."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from runner.audit.table import Cell, Table
from runner.config import conf
from runner.config.explain import MISTAKES, explain
from runner.config.hydra_files import hydra_files
from runner.config.hydra_job import hydra_job
from runner.core.run import Run
from runner.core.shapes import check_traces
from runner.core.step import ROW_NAMES
from runner.errors import ConfigError, did_you_mean
from runner.job.build import build
from runner.job.check import check
from runner.job.run import run_job
from runner.job.session import Session
from runner.record.files import read_metrics, read_object
from runner.record.loaded import edited
from runner.sweep.compose import Composer
from runner.sweep.job import without_hydra
from runner.sweep.launch import run_jobs
from runner.sweep.launcher import Launcher

Overrides = tuple[str, ...]


class Done(NamedTuple):
    """A run that was asked for: its folder, and why it failed if it did."""

    folder: Path
    error: str


class Runner:
    """Checks what is to be run, and runs it as a sweep.

    Args:
      context: Hydra's.
      master: the configuration that the jobs change.
    """

    def __init__(self, context: HydraContext, master: DictConfig):
        executor = "inline"  # here, whatever the configuration says of clusters
        self._launcher = Launcher(
            context, master, _train, "auto", "auto", executor, resume=False
        )
        self._composer = Composer(context.config_loader, master)
        self._parser = OverridesParser.create(config_loader=context.config_loader)

    def steps(self, table: Table) -> dict[str, int]:
        """Check all of `table`; the step that each cell is about, by its name.

        A run of each cell is built, but not trained.

        Raises:
          ConfigError: names the file, the key and what is wrong.
        """
        session, runs, found = Session(), {}, {}
        for cell in table.cells:
            overrides = table.overrides(cell)
            with _naming(table, cell.where):
                if overrides not in runs:
                    cfg = self._checked(overrides, table.seeds[0])
                    cfg.verify = False  # before it trains
                    runs[overrides] = build(cfg, session).run
                found[cell.name] = _step_of(cell, runs[overrides])
        for candidate in table.candidates:
            for cell in table.cells:
                if cell.name in candidate.cells:
                    with _naming(table, candidate.where):
                        own = table.overrides(cell, candidate)
                        self._checked(own, table.seeds[0])
        return found

    def _checked(self, overrides: Overrides, seed: int) -> DictConfig:
        for parsed in self._parser.parse_overrides(list(overrides)):
            if parsed.is_sweep_override():
                raise ConfigError(f"{parsed.input_line}: one value, not several")
        config = without_hydra(self._composer.compose(_given(overrides, seed)))
        conf.one_length(config, overrides)
        check(config)
        return config

    def run(
        self, asked: Iterable[Overrides], seeds: Iterable[int]
    ) -> dict[tuple[Overrides, int], Done]:
        """Train what isn't done yet, with each of `seeds`; a failure ends no other."""
        wanted = [(o, seed) for o in dict.fromkeys(asked) for seed in seeds]
        jobs = [_given(*each) for each in wanted]
        # By all of its overrides: its name and identity are the same in each audit.
        keys = dict.fromkeys(o.partition("=")[0] for job in jobs for o in job)
        try:
            done, _ = run_jobs(self._launcher, jobs, 0, list(keys))
        except ConfigError as error:  # the folder is another sweep's, or in use
            raise ConfigError(str(error).replace("hydra.sweep.dir", "--out")) from error
        return {
            each: Done(job.folder, explain(job.error) if job.error else "")
            for each, job in zip(wanted, done, strict=True)
        }


@contextmanager
def runner(folder: Path, config_dir: Path | None) -> Iterator[Runner]:
    """A `Runner` whose runs are in `folder`, within this process."""
    conf.register()
    hydra_files()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        asked = ["hydra.mode=MULTIRUN", *conf.search_path(config_dir)]
        master = compose("config", asked, return_hydra_config=True)
        with open_dict(master.hydra.sweep):
            master.hydra.sweep.dir = str(folder)
        loader = GlobalHydra.instance().config_loader()
        yield Runner(HydraContext(loader, Callbacks(master)), master)


def measured(cell: Cell, done: Done) -> float | str:
    """What a run measured for `cell`, or why it didn't."""
    if done.error:
        return done.error
    if cell.metric.startswith("test"):
        final = read_object(done.folder / "summary.json")["final"]
        return float(final[cell.metric])
    # Its own: an open factor may be the size of batches.
    step = _step(cell, read_object(done.folder / "config.json")["train"])
    last = 0
    for row in read_metrics(done.folder / "metrics.jsonl"):
        last = row["step"]
        if last == step and cell.metric in row:
            return float(row[cell.metric])
    if last < step:
        return f"it ended before step {step}"
    return f"{cell.metric} isn't measured at its step {step}"


def outdated(done: Iterable[Done]) -> list[str]:
    """The modules of one's own that were edited since the runs of earlier audits."""
    folders = {run.folder for run in done if not run.error}
    return edited(*(read_object(folder / "provenance.json") for folder in folders))


def _given(overrides: Overrides, seed: int) -> list[str]:
    return [f"seed={seed}", *overrides]


def _train(cfg: DictConfig) -> float:
    """Train the only job of a sweep."""
    return run_job(cfg, hydra_job(cfg))


@contextmanager
def _naming(table: Table, where: str) -> Iterator[None]:
    """Say which key of which file a mistake is in."""
    try:
        yield
    except MISTAKES as error:
        raise ConfigError(f"{table.path}: {where}: {explain(error)}") from error


def _step(cell: Cell, train: Mapping[str, Any]) -> int:
    """The step that `cell` is about in a run with this section `train`."""
    if cell.epoch is not None:
        return cell.epoch * train["steps_per_epoch"]
    return cell.step or train["steps"]


def _step_of(cell: Cell, run: Run) -> int:
    """The step that `cell` is about.

    Raises:
      ConfigError: its runs have no such step, or don't measure its metric there.
    """
    step, timetable = _step(cell, run.config["train"]), run.timetable
    names = check_traces(run.spec, run.values)
    row = [name.removeprefix("train/") for name in names if name.startswith("train/")]
    kinds = [kind for kind in row if kind.partition("/")[0] not in ROW_NAMES]
    tests = [f"{split}/{kind}" for split in run.spec.dataset.tests for kind in kinds]
    if cell.metric not in (*names, *tests):
        raise ConfigError(
            f"metric={cell.metric} is not a metric of these runs, which have "
            f"{', '.join([*names, *tests])}.{did_you_mean(cell.metric, names + tests)}"
        )
    what = f"epoch={cell.epoch}" if cell.epoch else f"step={cell.step}"
    if step > timetable.steps:
        length = timetable.steps
        raise ConfigError(f"{what} is beyond the end of its runs, step {length}")
    if cell.metric in tests and step < timetable.steps:
        raise ConfigError(f"{what}: {cell.metric} is measured only at the end of a run")
    every, is_measured = timetable.log_every, timetable.is_logged(step)
    if cell.metric.startswith("validation"):
        every = timetable.eval_every
        is_measured = timetable.next_evaluation(step - 1) == step
    if not is_measured:
        raise ConfigError(f"{what}: {cell.metric} is measured every {every} steps only")
    return step
