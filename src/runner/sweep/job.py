"""One job of a sweep: its composition, its folder and its result."""

import contextlib
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    _flush_loggers,
    configure_log,
)
from omegaconf import DictConfig, open_dict, read_write

from runner.config.hydra_files import Sections, write_yaml
from runner.config.hydra_job import hydra_aside
from runner.config.plain import plain
from runner.errors import ConfigError
from runner.job.identity import base_of, fingerprint
from runner.record.checksums import check_records
from runner.record.files import read_object, writing
from runner.record.secrets import named
from runner.settings import SECTIONS, SETTINGS, only_numbers
from runner.sweep.compose import Composer, names
from runner.trees import flatten


@dataclass
class Job:
    """A job, from its overrides to its result.

    Attributes:
      number: Hydra's, which counts the jobs of a sweep from 0.
      name: distinguishes it from the others.
      folder: its run folder.
      fingerprint: its name in the ledger.
      likeness: equal in jobs that may differ in numbers alone.
      config: as composed, including `hydra`. Emptied once the job is built.
      result: the final value of its objective.
      error: why it failed.
    """

    number: int
    overrides: list[str]
    name: str
    folder: Path
    fingerprint: str
    likeness: str
    config: DictConfig = field(repr=False)
    result: float | None = None
    error: Exception | None = None

    def returned(self) -> JobReturn:
        """The result as a launcher returns it to its sweeper."""
        returned = JobReturn(
            overrides=self.overrides,
            working_dir=str(Path.cwd()),
            task_name=JobRuntime.instance().get("name"),
            status=JobStatus.FAILED if self.error else JobStatus.COMPLETED,
        )
        returned.return_value = self.error or self.result
        return returned


def varying(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys of the overrides in which `jobs` differ, in the order of the first."""
    given = [{k: v for k, _, v in (o.partition("=") for o in job)} for job in jobs]
    keys = dict.fromkeys(key for job in given for key in job)
    return [key for key in keys if len({job.get(key) for job in given}) > 1]


def job_name(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """A name for a job: its overrides of `keys`, or what they name, or all of them.

    It holds no secrets, but differs where they do.
    """
    known = set(keys)

    def is_known(key: str) -> bool:
        return key in known or known.issuperset(names(key))

    chosen = [o for o in overrides if not keys or is_known(o.partition("=")[0])]
    return ",".join(named(override.lstrip("+~")) for override in chosen)


def compose_job(
    composer: Composer, overrides: Sequence[str], number: int, keys: Sequence[str]
) -> Job:
    """Compose the job with these overrides, named after those of `keys`."""
    config = composer.compose(overrides)
    name = job_name(overrides, keys)
    with open_dict(config.hydra.job):
        config.hydra.job.id = config.hydra.job.num = number
        config.hydra.job.override_dirname = name
    folder = Path(config.hydra.sweep.subdir)
    swept = composer.swept(config).union(*map(names, keys))
    base = base_of(config, swept)
    likeness = fingerprint(_without_numbers(base))
    # Two presets may differ in nothing but what is recorded.
    presets = {
        k: v for k, v in config.hydra.runtime.choices.items() if k in swept - {*config}
    }
    identity = fingerprint(base | {"presets": presets} if presets else base)
    return Job(number, list(overrides), name, folder, identity, likeness, config)


def _without_numbers(base: dict[str, Any]) -> dict[str, Any]:
    """`base` without the usual arguments of a program: see `runner.settings`."""
    names = [name for name in (*SECTIONS, "data") if name in base]
    sections = {name: dict(base[name]) for name in names}
    for key in filter(only_numbers, SETTINGS):
        section, _, name = key.rpartition(".")
        if name in sections.get(section, ()):
            is_on = sections[section][name] is not None
            sections[section][name] = SETTINGS[key].switch and is_on
    optimizer, schedule = base["optimizer"], base["schedule"]
    if isinstance(optimizer, dict):
        flat = flatten(optimizer).items()
        optimizer = {k: v for k, v in flat if not isinstance(v, float)}
    if "plateau" not in str(schedule):  # a plateau is part of the program
        schedule = None
    numbers = {"seed": None, "optimizer": optimizer, "schedule": schedule}
    numbers |= dict.fromkeys(("init_exclude", "init_rename"))
    numbers |= {"init_from": base["init_from"] is not None}
    return base | sections | numbers


def inside(sweep: Path, folder: str) -> Path:
    """The place of a job's folder, with links followed.

    Raises:
      ConfigError: it isn't within the sweep's, which alone a sweep may delete from.
    """
    root = sweep.resolve()
    place = (root / folder).resolve()
    if root not in place.parents:
        raise ConfigError(
            f"the folder of a job must lie within that of its sweep, {sweep}, but "
            f"{folder!r} doesn't"
        )
    return place


def refuse_shared(jobs: Sequence[Job], sweep: Path) -> None:
    """Refuse a folder that isn't one job's alone, before the sweep has any.

    Raises:
      ConfigError: names the jobs, or the one whose folder isn't within the sweep's.
    """
    owners: dict[Path, Job] = {}
    for job in jobs:
        place = inside(sweep, str(job.folder))
        other = owners.setdefault(place, job)
        if other.fingerprint != job.fingerprint:  # equal jobs are run once
            raise ConfigError(
                f"hydra.sweep.subdir gives {other.name} and {job.name} one folder, "
                f"{job.folder}: it must differ where the jobs do, as "
                "${hydra.job.override_dirname} does"
            )


def assign_folder(job: Job, sweep: Path, folder: str) -> None:
    """Give a job its folder within the sweep's.

    Raises:
      ConfigError: it isn't within.
    """
    inside(sweep, folder)
    with open_dict(job.config.hydra.sweep):
        job.config.hydra.sweep.dir = str(sweep)
        job.config.hydra.sweep.subdir = folder
    job.folder = sweep / folder


def load_finished(job: Job) -> bool:
    """Load the result of `job` and return True if an earlier process finished it.

    What it left unfinished is kept to be resumed, unless that is disabled.

    Raises:
      ConfigError: its summary is damaged.
    """
    summary = job.folder / "summary.json"
    if not summary.exists():
        return False
    found = read_object(summary)
    if found.get("status") != "finished":
        if job.config.checkpoint.resume == "never":
            # The folder is the job's alone, but W&B may still write there.
            shutil.rmtree(job.folder, ignore_errors=True)
        return False
    check_records(job.folder)
    try:
        job.result = float(found["final"][job.config.objective])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{summary} has no number as final.{job.config.objective}"
        ) from error
    return True


def can_be_packed(config: DictConfig) -> bool:
    """Whether the job needs no process-wide setting of its own."""
    hydra, train = config.hydra, config.train
    own = hydra.job.chdir or hydra.job.env_set or hydra.job.env_copy
    return not (own or train.debug_nans or train.profile)


@contextlib.contextmanager
def as_hydra_job(
    config: DictConfig, folder: Path, sections: Sections
) -> Iterator[DictConfig]:
    """Do what Hydra's `run_job` does around a task; yield the task's configuration.

    Hydra's own runs the task to its end, whereas ours trains later, together with
    others, when all are built. `sections` are those of the jobs before.
    """
    before = HydraConfig.instance().cfg
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.resolve())
    hydra: Any = HydraConfig.instance()
    hydra.cfg = config  # `set_config` would copy it all
    try:
        task = without_hydra(config)
        with writing(folder):
            _begin_folder(config, task, folder, sections)
        yield task
    finally:
        _flush_loggers()
        HydraConfig.instance().cfg = before


def _begin_folder(
    config: DictConfig, task: DictConfig, folder: Path, sections: Sections
) -> None:
    """Write what Hydra writes when a job begins."""
    folder.mkdir(parents=True, exist_ok=True)
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    if config.hydra.output_subdir is not None:
        record = folder / config.hydra.output_subdir
        record.mkdir(exist_ok=True)
        sections.write(record / "config.yaml", plain(task))
        sections.write(record / "hydra.yaml", plain(config.hydra), "hydra")
        write_yaml(record / "overrides.yaml", plain(config.hydra.overrides.task))


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of all of `config` but `hydra`."""
    with hydra_aside(config):
        return pickle.loads(pickle.dumps(config))  # much faster than a deep copy
