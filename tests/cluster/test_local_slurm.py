"""scripts/local_slurm: a real Slurm of several nodes."""

import subprocess
import time

import pytest

pytestmark = pytest.mark.slurm


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_step_spans_two_nodes_and_is_accounted_for():
    told = "echo $SLURM_JOB_ID/$SLURMD_NODENAME/$CUDA_VISIBLE_DEVICES"
    tasks = run("srun", "-N2", "-n2", "--gpus-per-node=1", "bash", "-c", told)
    ids, nodes, gpus = zip(*(task.split("/") for task in tasks), strict=True)
    assert sorted(nodes) == ["n1", "n2"]
    assert gpus == ("0", "0")
    end = time.monotonic() + 20
    while "COMPLETED" not in run("sacct", "-X", "-n", "-o", "State", "-j", ids[0]):
        assert time.monotonic() < end, "sacct doesn't tell of the job"
        time.sleep(0.2)


def test_a_job_of_higher_priority_preempts_another():
    low = run("sbatch", "--parsable", "-plow", "-N2", "--exclusive", "-o/dev/null",
              "--wrap", "srun sleep 60")[0]  # fmt: skip
    high = ""
    try:
        wait_for(low, "RUNNING")
        high = run("sbatch", "--parsable", "-phigh", "-N1", "-o/dev/null",
                   "--wrap", "exec sleep 60")[0]  # fmt: skip
        wait_for(high, "RUNNING")
        assert run("squeue", "-h", "-o%T", "-j", low) != ["RUNNING"]
    finally:
        run("scancel", low, *filter(None, [high]))


def wait_for(job: str, state: str) -> None:
    end = time.monotonic() + 45
    while run("squeue", "-h", "-o%T", "-j", job) != [state]:
        assert time.monotonic() < end, run("scontrol", "show", "job", job)
        time.sleep(0.2)
