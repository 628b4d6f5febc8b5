"""One job of a sweep: what Hydra does around it, and what becomes of it."""

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    _flush_loggers,
    configure_log,
)
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper


@dataclass
class Job:
    """A job, from its overrides to its result.

    Attributes:
      number: Hydra's, which counts the jobs of a sweep from 0.
      name: what tells it from the others.
      folder: its run folder.
      fingerprint: its name in the ledger.
      likeness: equal in jobs that may differ in numbers alone.
      config: as composed, `hydra` in it. Emptied once the job is built.
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
        """As a launcher hands it to its sweeper."""
        returned = JobReturn(
            overrides=self.overrides,
            working_dir=str(Path.cwd()),
            task_name=JobRuntime.instance().get("name"),
            status=JobStatus.FAILED if self.error else JobStatus.COMPLETED,
        )
        returned.return_value = self.error or self.result
        return returned


def can_be_packed(config: DictConfig) -> bool:
    """Whether the job needs no process-wide setting that others don't have."""
    hydra, train = config.hydra, config.train
    own = hydra.job.chdir or hydra.job.env_set or hydra.job.env_copy
    return not (own or train.debug_nans or train.profile)


@contextlib.contextmanager
def as_hydra_job(config: DictConfig, folder: Path) -> Iterator[DictConfig]:
    """What Hydra's `run_job` does around the task, of which it yields the part.

    Hydra's own runs the task to its end, and ours goes on, together with others, when
    all are built.
    """
    before = HydraConfig.instance().cfg
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.resolve())
    HydraConfig.instance().set_config(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        task = pickle.loads(pickle.dumps(config))  # much faster than a deep copy
        with read_write(task), open_dict(task):
            del task["hydra"]
        if config.hydra.output_subdir is not None:
            record = folder / config.hydra.output_subdir
            record.mkdir(exist_ok=True)
            _write_yaml(record / "config.yaml", task)
            _write_yaml(record / "hydra.yaml", HydraConfig.instance().cfg)
            _write_yaml(record / "overrides.yaml", config.hydra.overrides.task)
        yield task
    finally:
        _flush_loggers()
        HydraConfig.instance().cfg = before


# OmegaConf's dumper, in C where PyYAML has it: six times as fast.
_Dumper: Any = type("_Dumper", (getattr(yaml, "CDumper", yaml.Dumper),), {})
_Dumper.add_representer(str, OmegaConfDumper.str_representer)


def _write_yaml(path: Path, config: Any) -> None:
    """What Hydra's own `OmegaConf.save` writes."""
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    text = yaml.dump(
        plain,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        Dumper=_Dumper,
    )
    path.write_text(text, encoding="utf-8")
