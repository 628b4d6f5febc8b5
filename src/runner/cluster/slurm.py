"""Slurm, through submitit, which writes the batch script and starts the processes."""

import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm import slurm as submitit_slurm
from submitit.slurm.slurm import SlurmExecutor

from runner.cluster import process
from runner.cluster.engine import ArrayTaskState, EngineUnreachable
from runner.errors import ConfigError
from runner.settings import ClusterSettings, minutes

_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
_ANSWER_SECONDS = 30


class Slurm:
    """An `Engine`."""

    name = "Slurm"
    grace_seconds = 15.0
    at_once = None

    def __init__(
        self, settings: ClusterSettings, folder: Path, name: str, processes: int
    ):
        self._folder = folder
        self._name = name
        self._options = _options(settings, processes)
        self._is_dry = settings.dry_run
        if not self._is_dry and not shutil.which("sbatch"):
            raise ConfigError(
                "cluster=slurm: there is no sbatch on this machine. Start this on a "
                "login node of the cluster, or use cluster=local"
            )

    def submit(
        self, calls: Sequence[tuple[Callable, tuple[Any, ...]]], name: str
    ) -> list[str]:
        executor = SlurmExecutor(self._folder, python=process.command())
        executor.update_parameters(job_name=f"{self._name}-{name}", **self._options)
        try:
            with executor.batch():
                jobs = [executor.submit(call, *given) for call, given in calls]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            message = " ".join(str(error).split())
            raise ConfigError(f"Slurm refuses the job: {message}") from error
        return [job.job_id for job in jobs]

    def find(self, name: str, count: int) -> list[str] | None:
        found = _squeue(f"--name={self._name}-{name}", "--format=%F")
        if not found:
            return None
        first = found[0]
        return [f"{first}_{i}" for i in range(count)] if count > 1 else [first]

    def states(self, ids: Sequence[str]) -> dict[str, ArrayTaskState]:
        wanted = set(ids)
        arrays = ",".join(sorted({task.partition("_")[0] for task in ids}))
        lines = _squeue("--array", f"--jobs={arrays}", "--format=%i|%T|%r|%N")
        known = {}
        for line in lines:
            task, name, reason, nodes = line.split("|", 3)
            if task in wanted:
                known[task] = ArrayTaskState(name, reason, nodes, name in _OVER)
        # Slurm forgets ended tasks after a while (MinJobAge); accounting, if there is
        # any, doesn't.
        return _accounted(wanted - known.keys()) | known

    def cancel(self, ids: Sequence[str]) -> None:
        subprocess.run(["scancel", "--quiet", *ids], check=False)

    def log(self, task: str) -> Path:
        return JobPaths(self._folder, job_id=task, task_id=0).stdout

    def script(self, count: int) -> str:
        python = f"{process.command()} -u -m submitit.core._submit"
        return submitit_slurm._make_sbatch_string(
            command=f"{python} {shlex.quote(str(self._folder))}",
            folder=self._folder,
            job_name=self._name,
            map_count=count if count > 1 else None,
            **self._options,
        )


def _options(settings: ClusterSettings, processes: int) -> dict[str, Any]:
    """The settings under submitit's names."""
    return {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "nodes": settings.nodes,
        "gpus_per_node": settings.gpus or None,
        "ntasks_per_node": processes,
        "cpus_per_task": settings.cpus,
        "mem": settings.memory,
        "time": minutes(settings.time),
        "setup": settings.setup or None,
        "array_parallelism": settings.array_parallelism,
        "wckey": None,  # submitit's default, which some clusters refuse
        "stderr_to_stdout": True,
        # A process that fails ends the others, which would otherwise wait for it.
        "srun_args": ["--kill-on-bad-exit=1"],
        "additional_parameters": {
            "requeue": True,  # when a node fails or another job has priority
            "open-mode": "append",  # a requeued task continues its logs
            # submitit uses USR2. A preemption sends TERM, so the time limit does too.
            "signal": f"TERM@{settings.warning_seconds}",
            **settings.sbatch,
        },
    }


def _squeue(*arguments: str) -> list[str]:
    """The lines of squeue's answer."""
    command = ["squeue", "--noheader", "--states=all", *arguments]
    try:
        ask = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnreachable(str(error)) from error
    if ask.returncode and "Invalid job id" not in ask.stderr:
        raise EngineUnreachable(" ".join(ask.stderr.split()))
    return ask.stdout.splitlines()


def _accounted(ids: set[str]) -> dict[str, ArrayTaskState]:
    """The states of tasks from accounting; none if it doesn't answer."""
    if not ids:
        return {}
    command = ["sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList", "-j"]
    try:
        ask = subprocess.run(
            [*command, ",".join(sorted(ids))],
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    known = {}
    for line in ask.stdout.splitlines() if ask.returncode == 0 else []:
        task, state, nodes = line.split("|")[:3]
        name, _, reason = state.partition(" ")  # CANCELLED by 1000
        if task in ids:
            known[task] = ArrayTaskState(name, reason, nodes, name in _OVER)
    return known
