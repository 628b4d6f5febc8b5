"""Launches the jobs of `python -m runner -m`."""

import contextlib
import dataclasses
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from omegaconf import DictConfig

from runner import signals
from runner.cluster.plan import Plan
from runner.config.hydra_files import discard_unused
from runner.config.plain import plain
from runner.errors import ConfigError, Preempted, did_you_mean
from runner.job.identity import base_of
from runner.job.trackers import begin_mirroring
from runner.settings import ClusterSettings
from runner.sweep.compose import Composer, names
from runner.sweep.job import (
    Job,
    assign_folder,
    compose_job,
    load_finished,
    refuse_shared,
    varying,
)
from runner.sweep.launcher import STRATEGIES, Launcher, Search
from runner.sweep.ledger import Ledger, swept_in, unfinished
from runner.sweep.sweep import Sweep
from runner.sweep.table import is_higher_better, print_results


def launch(
    launcher: Launcher,
    overrides: Sequence[Sequence[str]],
    first: int,
    search: Search | None = None,
) -> list[JobReturn]:
    """Run the jobs of a sweep, or of one batch of it.

    Args:
      launcher: what runs them.
      overrides: of each job.
      first: the number of the first of them.
      search: gets them, to show all of its jobs at its end.

    Returns:
      the result of each.

    Raises:
      ConfigError: the jobs can't be composed, or the folder is another sweep's.
    """
    keys = search.keys if search else varying(overrides)
    jobs, folder = run_jobs(launcher, overrides, first, keys)
    if search:
        search.jobs.update({job.fingerprint: job for job in jobs})
    elif len(jobs) > 1:
        show_results(jobs, keys, folder, launcher.master.objective)
    return [job.returned() for job in jobs]


def show_results(
    jobs: Sequence[Job], keys: Sequence[str], folder: Path, objective: str
) -> None:
    """Print what the jobs of a sweep have found; see `print_results`."""
    higher = is_higher_better(objective, jobs)
    print_results(jobs, keys, folder, objective, higher)


def run_jobs(
    launcher: Launcher,
    overrides: Sequence[Sequence[str]],
    first: int,
    keys: Sequence[str],
) -> tuple[list[Job], Path]:
    """Run the jobs, which are named after their overrides of `keys`.

    Other arguments and errors: see `launch`.

    Returns:
      the jobs, and the folder of their sweep.
    """
    master = launcher.master
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    _check(launcher)
    composer = Composer(launcher.context.config_loader, master)
    # A sweep that gets more values may differ in fewer keys now than it did before.
    folder = Path(master.hydra.sweep.dir)
    known = [*keys, *swept_in(folder)]
    jobs = [compose_job(composer, overrides[0], first, known)]
    cluster = _cluster(launcher, jobs[0].config, keys)
    # A sweep that is continued may have nothing left to do.
    if not cluster and not (folder / "sweep.json").exists():
        begin_mirroring(jobs[0].config, len(overrides))
    _refuse_processes(master)
    jobs += [
        compose_job(composer, given, first + i, known)
        for i, given in enumerate(overrides[1:], 1)
    ]
    if len({job.config.deterministic for job in jobs}) > 1:
        raise ConfigError(
            "deterministic must be the same for all jobs of a sweep: XLA reads its "
            "flags once in a process"
        )
    base = base_of(master)
    if launcher.resume and not is_given(master, "hydra.sweep.dir"):
        folder = _unfinished(folder, base, jobs) or folder
    refuse_shared(jobs, folder)
    if cluster:
        from runner.cluster.handed_over import refuse_secrets
        from runner.sweep import on_cluster

        refuse_secrets([plain(master)], overrides)
        engine = on_cluster.engine_of(cluster, folder)  # which this machine may lack
        if cluster.dry_run:
            print(on_cluster.script(jobs, cluster, launcher.max_members, engine))
            raise SystemExit(0)
    swept = [name for key in keys for name in names(key)]
    with Ledger(folder, base, swept) as ledger:
        plan = Plan(folder)
        submitted = {name for task in plan.active for name in task.jobs}
        # Equal jobs, which Optuna may sample, are run once.
        todo = {
            job.fingerprint: job
            for job in reversed(jobs)
            if not _is_done(job, ledger, submitted)
        }
        ledger.write()
        unfinished = list(reversed(todo.values()))
        total = first + len(jobs)
        with _resumable(ledger):
            _run(launcher, cluster, ledger, plan, unfinished, total, known)
    for job in jobs:
        if job.fingerprint in todo:
            original = todo[job.fingerprint]
            job.result, job.error = original.result, original.error
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    return jobs, folder


def _run(
    launcher: Launcher,
    cluster: ClusterSettings | None,
    ledger: Ledger,
    plan: Plan,
    jobs: Sequence[Job],
    total: int,
    keys: Sequence[str],
) -> None:
    """Run `jobs`, the unfinished ones of `total`, here or on a cluster."""
    if cluster:
        from runner.sweep import on_cluster

        signals.stand_back(signals.raised)
        on_cluster.run(launcher, cluster, ledger, plan, jobs, total, keys)
    elif plan.active:
        raise ConfigError(
            f"tasks of the sweep in {ledger.folder} are on a cluster: continue them "
            f"with the same cluster=..., or cancel them and delete {plan.folder}"
        )
    else:
        Sweep(launcher, ledger).run(jobs, total)


@contextlib.contextmanager
def _resumable(ledger: Ledger) -> Iterator[None]:
    """Say how to continue a sweep that is interrupted within the block."""
    try:
        yield
    except (KeyboardInterrupt, Preempted) as stopped:
        why = stopped if isinstance(stopped, Preempted) else "interrupted"
        print(f"{why}; the same command continues {ledger.folder}", file=sys.stderr)
        if isinstance(stopped, Preempted):
            ledger.close()  # the process that resumes will open it
            stopped.forward()
        raise


def _check(launcher: Launcher) -> None:
    from runner.config.ignored_files import refuse_ignored

    refuse_ignored(launcher.master.hydra.runtime.config_sources)
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


def _refuse_processes(master: DictConfig) -> None:
    from runner.config.rank import rank  # which may import JAX

    processes = rank(master.distributed).size
    if processes > 1:
        raise ConfigError(
            f"a sweep (-m) is run by one process, but there are {processes}; start "
            "one, or set distributed=off to run one sweep in each"
        )


def _cluster(
    launcher: Launcher, config: DictConfig, keys: Sequence[str]
) -> ClusterSettings | None:
    """The cluster that trains the jobs; None trains them here."""
    engines = {"inline": None, "submitit_local": "local", "submitit_slurm": "slurm"}
    names = ["auto", *engines]
    executor = launcher.executor
    if executor not in names:
        raise ConfigError(
            f"hydra.launcher.executor={executor} is none of {', '.join(names)}."
            + did_you_mean(str(executor), names)
        )
    engine = config.cluster.engine
    wanted = engine if executor == "auto" else engines[executor]
    if engine not in (None, wanted):
        raise ConfigError(
            f"hydra.launcher.executor={executor} contradicts cluster.engine={engine}"
        )
    if wanted is None:
        return None
    from runner.cluster.submit import settings_of
    from runner.config.ranges import check_ranges

    swept = [key for key in keys if key.lstrip("+~").partition(".")[0] == "cluster"]
    if swept:
        raise ConfigError(f"{swept[0]} must be the same for all jobs of a sweep")
    check_ranges(config, [f"cluster.{key}" for key in config.cluster])
    settings = dataclasses.replace(settings_of(config), engine=wanted)
    if settings.nodes > 1:
        raise ConfigError(
            f"cluster.nodes={settings.nodes} must be 1 with -m: a task of a sweep is "
            "one process, with all GPUs of its node"
        )
    return settings


def is_given(master: DictConfig, key: str) -> bool:
    """Whether the command line sets this key of Hydra's."""
    return any(
        o.lstrip("+").startswith(f"{key}=") for o in master.hydra.overrides.hydra
    )


def _unfinished(new: Path, base: dict[str, Any], jobs: list[Job]) -> Path | None:
    """The folder beside `new` in which the same sweep is unfinished."""
    fingerprints = [job.fingerprint for job in jobs]
    for path in sorted(new.parent.parent.glob("*/*/sweep.json"), reverse=True):
        folder = path.parent
        if unfinished(folder, base, fingerprints):
            print(
                f"continuing the unfinished sweep in {folder} "
                "(hydra.launcher.resume=false starts a new one)",
                file=sys.stderr,
            )
            discard_unused(new, (new, new.parent))
            return folder
    return None


def _is_done(job: Job, ledger: Ledger, submitted: Collection[str]) -> bool:
    """Whether an earlier process has done `job`; `submitted` are on a cluster."""
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
    assign_folder(job, ledger.folder, entry["folder"])
    if not is_known or job.fingerprint in submitted or not load_finished(job):
        return False
    entry.update(state="done", result=job.result)
    return True
