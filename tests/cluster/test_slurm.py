"""Sweeps on a real Slurm: killed tasks, failing jobs, preemption."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from helpers.launched import events, run, start, states, wait_for, write_broken_model
from helpers.pages import COMMANDS
from runner.cluster.plan import Plan
from runner.record.files import read_metrics

pytestmark = pytest.mark.slurm
__all__ = ["run", "start"]  # fixtures


def processes(task: str) -> list[int]:
    """Those of a task, the newest last: srun's, and Python's under it."""
    job, _, index = task.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={job}", f"SLURM_ARRAY_TASK_ID={index}"}
    if not index:  # it is alone
        wanted = {f"SLURM_JOB_ID={job}"}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((folder / "environ").read_text().split("\0"))
            is_python = "submitit.core._submit" in (folder / "cmdline").read_text()
        except OSError:
            continue
        if is_python and wanted < environment and "SLURM_PROCID=0" in environment:
            found.append(int(folder.name))
    return sorted(found)


def kill(task: str) -> None:
    for process in processes(task):
        with contextlib.suppress(ProcessLookupError):  # it may be git, and at its end
            os.kill(process, signal.SIGKILL)


def of_the_page(tmp_path: Path, folders, marks: str, *short: str) -> str:
    """Run the page's command that has `marks` in it; what it said."""
    (command,) = [c for c in COMMANDS if marks in c and "dry_run" not in c]
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:], *short],
        cwd=tmp_path,
        env=os.environ | {"TFDS_DATA_DIR": str(folders["data"])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_pages_run(tmp_path, folders):
    said = of_the_page(tmp_path, folders, "cluster.time=2:00:00", "train.epochs=1")
    assert "running on n" in said and "done, validation/loss" in said


def test_the_pages_sweep(tmp_path, folders):
    said = of_the_page(tmp_path, folders, "-m cluster=slurm", "train.epochs=1")
    assert "jobs in 2 tasks on Slurm" in said
    (sweep,) = tmp_path.glob("multirun/*/*")
    assert set(states(sweep)) == {"done"} and len(states(sweep)) >= 6


def test_a_population_killed_midway_goes_on_from_its_checkpoint(start, tmp_path):
    launcher = start(
        "-m", "cluster=slurm", "hydra.sweep.dir=sweep", "train.steps=4000",
        "optimizer.learning_rate=0.1,0.03", "seed=0,1,2,3",
        "checkpoint.every_steps=200",
    )  # fmt: skip
    sweep = tmp_path / "sweep"
    wait_for(lambda: list(sweep.glob("checkpoints/*/*00/record")))
    kill(Plan(sweep).tasks[0].id)
    assert launcher.wait(timeout=240) == 0, (tmp_path / "said").read_text()
    (task,) = Plan(sweep).tasks
    assert len(task.ids) == 2 and states(sweep) == ["done"] * 8
    folders = [path.parent for path in sweep.glob("*/metrics.jsonl")]
    restarts = []
    for folder in folders:
        rows = read_metrics(folder / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, 4001))
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["members"] == 4  # of 8, 4 a population at most
        restarts += provenance["restarts"]
    # The second population had not begun.
    assert len(restarts) == 4 and len({restart["step"] for restart in restarts}) == 1
    assert restarts[0]["step"] % 200 == 0 and restarts[0]["step"] > 0
    assert len(folders) == 8 and not (sweep / "checkpoints").exists()


def test_a_task_of_the_loop_killed_midway_does_no_job_twice(start, tmp_path):
    launcher = start(
        "-m", "cluster=slurm", "hydra.sweep.dir=sweep",
        "optimizer.learning_rate=0.1,0.03,0.01", "seed=range(12)",
        "hydra.launcher.max_members=12", "hydra.launcher.strategy=loop",
        "train.steps=400",
    )  # fmt: skip
    sweep = tmp_path / "sweep"

    def done_by_the_second() -> int:
        file = sweep / "cluster" / "tasks" / "1.jsonl"
        return file.exists() and file.read_text().count('"done"')

    wait_for(lambda: done_by_the_second() >= 3)
    kill(Plan(sweep).tasks[1].id)
    assert launcher.wait(timeout=240) == 0, (tmp_path / "said").read_text()
    tasks = Plan(sweep).tasks
    assert len({task.ids[0].split("_")[0] for task in tasks}) == 1
    assert [len(task.ids) for task in tasks] == [1, 2, 1]
    assert "was killed: failed" in (tmp_path / "said").read_text()
    assert states(sweep) == ["done"] * 36
    ends = Counter(event["job"] for event in events(sweep) if event["event"] == "done")
    # By the second attempt, of what the first has done: told again, not done again.
    again = {job for job, times in ends.items() if times > 1}
    first, second = started_in_each_attempt(sweep, task=1)
    assert len(ends) == 36 and again <= first and not again & second
    steps = [
        row["step"] for f in sweep.glob("*/metrics.jsonl") for row in read_metrics(f)
    ]
    assert set(Counter(steps).values()) == {36}


def started_in_each_attempt(sweep: Path, task: int) -> list[set[str]]:
    attempts: list[set[str]] = []
    for event in events(sweep, f"{task}.jsonl"):
        if event["event"] == "attempt":
            attempts.append(set())
        elif event["event"] == "running":
            attempts[-1].add(event["job"])
    return attempts


def test_a_job_that_raises_is_told_of_there_and_here(run, tmp_path):
    model = write_broken_model(tmp_path)
    status, said = run(
        "-m", *model, "cluster=slurm", "model.width=4,8", "hydra.sweep.dir=sweep"
    )
    assert status == 1
    assert "in broken" in said and "ZeroDivisionError: " in said
    sweep = tmp_path / "sweep"
    assert states(sweep) == ["done", "failed"]
    error = (sweep / "model.width=4" / "error.txt").read_text()
    assert "in broken" in error and "ZeroDivisionError: " in error


def test_a_preempted_run_of_two_nodes_is_requeued_and_ends_as_if_undisturbed(
    start, run, tmp_path
):
    arguments = (
        "cluster=slurm", "cluster.nodes=2", "cluster.partition=low", "data=digits",
        "train.epochs=null", "train.steps=300", "train.eval_every_steps=300",
        "train.log_every_steps=1", "train.steps_per_call=1",
    )  # fmt: skip
    status, said = run(*arguments, "hydra.run.dir=whole")
    assert status == 0, said
    out = tmp_path / "out"
    launcher = start(*arguments, "hydra.run.dir=out")
    rows = out / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 5)
    job = Plan(out).tasks[0].id
    # Or it might end before it is preempted, when Slurm continues it.
    os.kill(processes(job)[-1], signal.SIGSTOP)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=30) == 130
    assert job in (tmp_path / "said").read_text()
    sbatch = ["sbatch", "--wait", "-phigh", "-N2", "--exclusive", "-o/dev/null"]
    subprocess.run([*sbatch, "--wrap", "true"], check=True, timeout=60)
    wait_for(lambda: [e["event"] for e in events(out)].count("requeued") == 1)
    again = start(*arguments, "hydra.run.dir=out")  # its launcher may be closed
    assert again.wait(timeout=120) == 0, (tmp_path / "said").read_text()
    assert Plan(out).tasks[0].ids == [job]
    undisturbed, resumed = (
        [row | {"time/steps_per_second": 0} for row in read_metrics(path)]
        for path in (tmp_path / "whole" / "metrics.jsonl", rows)
    )
    assert resumed == undisturbed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["restarts"] == 1  # it went on from what it had saved
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["device_count"] == 2


def test_what_one_process_of_a_run_raises_ends_all_of_it_and_is_told(run, tmp_path):
    model = write_broken_model(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import os, time\n"
        "def broken(*, inputs, output, dtype, hidden_sizes, width):\n"
        "    if os.environ['SLURM_PROCID'] == '1':\n"
        "        raise ValueError('only on the second node')\n"
        "    time.sleep(100)\n"
    )
    status, said = run(*model, "cluster=slurm", "cluster.nodes=2", "hydra.run.dir=out")
    assert status == 1 and "ValueError: only on the second node" in said
    assert "in broken" in said and "requeued" not in str(events(tmp_path / "out"))
    assert len(Plan(tmp_path / "out").tasks[0].ids) == 1
