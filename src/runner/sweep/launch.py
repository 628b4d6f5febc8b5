"""What `python -m runner -m` does with its jobs."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import DictConfig, open_dict

from runner.errors import ConfigError, did_you_mean
from runner.sweep import ledger as ledgers
from runner.sweep.compose import Composer
from runner.sweep.job import Job
from runner.sweep.ledger import Ledger
from runner.sweep.names import job_name, varying
from runner.sweep.sweep import Sweep
from runner.sweep.table import print_table

if TYPE_CHECKING:
    from hydra_plugins.packed_launcher import PackedLauncher


def launch(
    launcher: "PackedLauncher", overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run the jobs of a sweep, or of one batch of it.

    Args:
      launcher: set up by Hydra.
      overrides: of each job.
      first: the number of the first of them.

    Returns:
      what became of each.

    Raises:
      ConfigError: the jobs can't be composed, or the sweep's folder is another's.
    """
    master = launcher.config
    assert master is not None and launcher.hydra_context is not None
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    _check(launcher)
    keys = varying(overrides)
    composer = Composer(launcher.hydra_context.config_loader, master)
    jobs = [
        _job(composer.compose(given), list(given), first + i, keys)
        for i, given in enumerate(overrides)
    ]
    base = ledgers.base_of(master)
    folder = Path(master.hydra.sweep.dir)
    if launcher.resume and not _is_given(master, "hydra.sweep.dir"):
        folder = _unfinished(folder, base, jobs) or folder
    swept = [key.lstrip("+~").partition("@")[0] for key in keys]
    with Ledger(folder, base, swept) as ledger:
        # Equal jobs, as Optuna may sample them, are one.
        todo = {j.fingerprint: j for j in reversed(jobs) if not _is_done(j, ledger)}
        ledger.write()
        try:
            Sweep(launcher, ledger).run(list(reversed(todo.values())), len(jobs))
        except KeyboardInterrupt:
            print(f"interrupted; the same command continues {folder}", file=sys.stderr)
            raise
    for job in jobs:
        if job.fingerprint in todo:
            twin = todo[job.fingerprint]
            job.result, job.error = twin.result, twin.error
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    if len(jobs) > 1:
        print_table(jobs, keys, folder, master.objective)
    return [job.returned() for job in jobs]


def _check(launcher: "PackedLauncher") -> None:
    from runner.distributed import place
    from runner.sweep.population import STRATEGIES

    assert launcher.config is not None
    processes = place(launcher.config.distributed).size
    if processes > 1:
        raise ConfigError(
            f"a sweep (-m) is run by one process, but here are {processes}; start one, "
            "or with distributed=off one for each sweep"
        )
    if launcher.strategy not in STRATEGIES:
        raise ConfigError(
            f"hydra.launcher.strategy={launcher.strategy} is none of "
            f"{', '.join(STRATEGIES)}." + did_you_mean(launcher.strategy, STRATEGIES)
        )
    most = launcher.max_members
    if most != "auto" and not (type(most) is int and most >= 1):
        raise ConfigError(
            f"hydra.launcher.max_members={most} must be auto, or a whole number of at "
            "least 1"
        )


def _job(config: DictConfig, overrides: list[str], number: int, keys: list[str]) -> Job:
    name = job_name(overrides, keys)
    with open_dict(config.hydra.job):
        config.hydra.job.id = config.hydra.job.num = number
        config.hydra.job.override_dirname = name
    folder = Path(config.hydra.sweep.subdir)
    base = ledgers.base_of(config)
    fingerprint = ledgers.fingerprint(base)
    likeness = ledgers.fingerprint(_without_numbers(base))
    return Job(number, overrides, name, folder, fingerprint, likeness, config)


def _without_numbers(base: dict[str, Any]) -> dict[str, Any]:
    """`base` without what is mostly an argument of a program: see `build`."""
    optimizer, schedule = base["optimizer"], base["schedule"]
    if isinstance(optimizer, dict):
        optimizer = {k: v for k, v in optimizer.items() if not isinstance(v, float)}
    if "plateau" not in str(schedule):  # which is part of its program
        schedule = None
    return base | {"seed": None, "optimizer": optimizer, "schedule": schedule}


def _is_given(master: DictConfig, key: str) -> bool:
    return any(
        o.lstrip("+").startswith(f"{key}=") for o in master.hydra.overrides.hydra
    )


def _unfinished(new: Path, base: dict[str, Any], jobs: list[Job]) -> Path | None:
    """The folder beside `new` in which the same sweep ended before its time."""
    fingerprints = [job.fingerprint for job in jobs]
    for path in sorted(new.parent.parent.glob("*/*/sweep.json"), reverse=True):
        folder = path.parent
        if ledgers.unfinished(folder, base, fingerprints):
            print(
                f"continuing the unfinished sweep in {folder} "
                "(hydra.launcher.resume=false starts a new one)",
                file=sys.stderr,
            )
            # All that Hydra has put there so far.
            (new / "multirun.yaml").unlink(missing_ok=True)
            for empty in (new, new.parent):
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()
            return folder
    return None


def _is_done(job: Job, ledger: Ledger) -> bool:
    """Whether an earlier process has done `job`; what it left undone is removed."""
    is_known = job.fingerprint in ledger.jobs
    entry = ledger.add(
        job.fingerprint,
        {
            "name": job.name,
            "folder": str(job.folder),
            "overrides": job.overrides,
            "state": "pending",
            "result": None,
        },
    )
    with open_dict(job.config.hydra.sweep):
        job.config.hydra.sweep.dir = str(ledger.folder)
        job.config.hydra.sweep.subdir = entry["folder"]
    job.folder = ledger.folder / entry["folder"]
    summary = job.folder / "summary.json"
    if not (is_known and summary.exists()):
        return False
    found = json.loads(summary.read_text(encoding="utf-8"))
    if found["status"] != "finished":
        # Half a run; the folder is the job's alone, but W&B may still write there.
        shutil.rmtree(job.folder, ignore_errors=True)
        return False
    job.result = float(found["final"][job.config.objective])
    entry.update(state="done", result=job.result)
    return True
