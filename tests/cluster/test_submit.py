"""Runs and sweeps handed to other processes, which this machine plays without Slurm."""

import itertools
import json
import os
import re
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.launched import events, run, start, states, wait_for, write_broken_model
from runner.cluster.events import Events, Tail
from runner.cluster.plan import Plan
from runner.cluster.submit import settings_of
from runner.errors import ConfigError
from runner.job.check import check
from runner.record.files import read_metrics
from runner.settings import minutes
from runner.sweep import launch
from runner.sweep.on_cluster import cut

__all__ = ["run", "start"]  # fixtures


def test_a_run_is_followed_to_its_end_and_not_done_twice(run, tmp_path):
    status, said = run("cluster=local", "hydra.run.dir=out")
    assert status == 0, said
    assert "running on this machine" in said and "step 20/20" in said
    final = read_metrics(tmp_path / "out" / "metrics.jsonl")[-1]
    assert f"done, validation/loss {final['validation/loss']:.4g}" in said
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert "cluster=local" in str(record["command"])  # not submitit's
    assert run("cluster=local", "hydra.run.dir=out")[0] == 0
    assert len(Plan(tmp_path / "out").tasks) == 1
    status, said = run("cluster=local", "hydra.run.dir=out", "seed=1")
    assert status == 1 and "rows of an earlier run" in said


def test_a_packed_sweep_runs_with_its_defaults(run, tmp_path):
    swept = ("-m", "cluster=local", "optimizer=sgd,adam", "seed=0,1,2")
    status, said = run(*swept, "hydra.sweep.dir=sweep")
    assert status == 0, said
    sweep = tmp_path / "sweep"
    assert states(sweep) == ["done"] * 6
    for optimizer, seed in itertools.product(("sgd", "adam"), range(3)):
        folder = sweep / f"optimizer={optimizer},seed={seed}"
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["members"] == 3
        assert len(read_metrics(folder / "metrics.jsonl")) == 20
    assert len(Plan(sweep).tasks) == 2 and not (sweep / "checkpoints").exists()


def test_a_sweep_grows_in_another_key_than_it_had(run, tmp_path):
    """A task finds the jobs as they were submitted, whatever its own differ in."""
    steps = "checkpoint.every_steps"
    for swept in (f"seed=0 {steps}=5,6", f"seed=0,1 {steps}=5"):
        status, said = run("-m", "cluster=local", *swept.split(), "hydra.sweep.dir=out")
        assert status == 0, said
    assert states(tmp_path / "out") == ["done"] * 3


def test_a_sweep_outlives_its_launcher_and_tells_of_what_failed(run, start, tmp_path):
    model = write_broken_model(tmp_path)
    arguments = (
        "-m", *model, "model.width=4,8", "hydra.sweep.dir=sweep",
        "hydra.launcher.executor=submitit_local", "cluster.array_parallelism=1",
    )  # fmt: skip
    launcher = start(*arguments)
    sweep = tmp_path / "sweep"
    wait_for(lambda: "attempt" in [e["event"] for e in events(sweep)])
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    (submitted,) = Plan(sweep).tasks  # the other waits for it
    status, said = run(*arguments)
    assert status == 1 and "ZeroDivisionError: " in said
    assert "in broken" in said and "killed" not in said
    assert states(sweep) == ["done", "failed"]
    first, second = Plan(sweep).tasks
    assert first.ids == submitted.ids and len(second.ids) == 1
    assert [event["event"] for event in events(sweep)].count("attempt") == 2
    error = (sweep / "model.width=4" / "error.txt").read_text()
    assert "ZeroDivisionError" in error


def test_a_dry_run_prints_the_script_and_submits_nothing(run, tmp_path):
    status, said = run(
        "-m", "cluster=slurm", "cluster.dry_run=true", "cluster.partition=gpu",
        "cluster.gpus=4", "cluster.time=2-00:00:00", "cluster.memory=16G",
        "cluster.setup=['module load cuda']", "+cluster.sbatch.constraint=a100",
        "hydra.launcher.max_members=2", "seed=0,1,2,3,4", "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert status == 0, said
    for line in (
        "#SBATCH --array=0-2%3", "#SBATCH --partition=gpu", "#SBATCH --time=2880",
        "#SBATCH --gpus-per-node=4", "#SBATCH --ntasks-per-node=1",
        "#SBATCH --mem=16G", "#SBATCH --constraint=a100", "#SBATCH --requeue",
        "#SBATCH --signal=TERM@120", "#SBATCH --open-mode=append", "module load cuda",
    ):  # fmt: skip
        assert f"\n{line}\n" in said
    assert not (tmp_path / "sweep" / "cluster").exists()
    assert not (tmp_path / "sweep" / "sweep.json").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("cluster.engine=slrum", "local or slurm"),
        ("cluster.time=soon", "cluster.time=soon must be a number of minutes"),
        ("cluster.time=0", "at least 1"),
        ("cluster.nodes=0", "at least 1"),
        ("cluster.gpus=-1", "at least 0"),
        ("cluster.max_tasks=100000", "from 1 to 1000"),
        ("cluster.retries=-1", "at least 0"),
        ("+cluster.qsub=1", "cluster has no key 'qsub'"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(composed, override, told):
    with pytest.raises(ConfigError, match=told):
        check(composed("cluster=slurm", override))


def test_one_machine_has_one_node(composed):
    with pytest.raises(ConfigError, match="nodes=2 must be 1"):
        settings_of(composed("cluster=local", "cluster.nodes=2"))


@pytest.mark.parametrize(
    ("executor", "cluster", "swept", "told"),
    [
        ("slurm", "none", [], "Did you mean 'submitit_slurm'?"),
        ("inline", "local", [], "contradicts cluster.engine=local"),
        ("auto", "slurm", ["cluster.partition"], "the same for all jobs"),
        ("submitit_slurm", "none", ["cluster"], "the same for all jobs"),
    ],
)
def test_mistakes_in_how_a_sweep_is_run(composed, executor, cluster, swept, told):
    launcher: Any = SimpleNamespace(executor=executor)
    with pytest.raises(ConfigError, match=re.escape(told)):
        launch._cluster(launcher, composed(f"cluster={cluster}"), swept)


@pytest.mark.parametrize(
    ("cluster", "told"),
    [("local", "pip install submitit"), ("slurm", "no sbatch on this machine")],
)
def test_a_sweep_that_its_cluster_cannot_run_leaves_nothing(
    run, tmp_path, monkeypatch, cluster, told
):
    tools = tmp_path / "tools"
    tools.mkdir()
    if cluster == "local":
        (tools / "submitit.py").write_text("raise ImportError")
        monkeypatch.setenv("PYTHONPATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("PATH", str(tools))
    status, said = run("-m", f"cluster={cluster}", "seed=0,1")
    assert status == 1 and told in said, said
    assert [path.name for path in tmp_path.iterdir()] == ["tools"]


def test_a_task_of_a_sweep_has_one_node(composed):
    launcher: Any = SimpleNamespace(executor="auto")
    config = composed("cluster=slurm", "cluster.nodes=2")
    with pytest.raises(ConfigError, match="must be 1 with -m"):
        launch._cluster(launcher, config, [])


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (60, 60), ("90", 90), ("1:30", 2), ("12:00:00", 720), ("2-00", 2880),
        ("1-02:30", 1590), ("2-00:00:00", 2880), (0, None), ("0:00", None),
        ("soon", None), (-1, None), (True, None), ("1:2:3", None),
    ],
)  # fmt: skip
def test_durations_are_slurms(time, expected):
    assert minutes(time) == expected


class Like:
    """As much of a job as `cut` looks at."""

    def __init__(self, likeness: str, number: int):
        self.likeness, self.number, self.config = likeness, number, None


@pytest.mark.parametrize(
    ("sizes", "most", "max_tasks", "expected"),
    [
        ([200], 25, 64, [25] * 8),
        ([200], "auto", 64, [200]),
        ([10_000], "auto", 64, [250] * 40),
        ([7], 3, 64, [2, 2, 3]),
        ([4] * 12, "auto", 64, [4] * 12),
        ([1] * 9600, "auto", 64, [150] * 64),
        ([100, 1, 1], 50, 2, [51, 51]),
    ],
)
def test_jobs_are_cut_into_tasks(monkeypatch, sizes, most, max_tasks, expected):
    monkeypatch.setattr("runner.sweep.on_cluster.can_be_packed", lambda config: True)
    jobs = [Like(str(i), n) for i, size in enumerate(sizes) for n in range(size)]
    tasks = cut(jobs, most, max_tasks)  # type: ignore[arg-type]
    assert [len(task) for task in tasks] == expected
    assert {id(job) for task in tasks for job in task} == set(map(id, jobs))


def test_events_survive_a_writer_that_was_killed(tmp_path):
    path = tmp_path / "0.jsonl"
    tail = Tail(path)
    assert tail.new() == []
    first = Events(path, "1")
    first.failed("a", ValueError("mine"), "job a failed")
    with path.open("a") as file:
        file.write('{"event": "do')  # killed in the middle of a line
    assert [event["event"] for event in tail.new()] == ["attempt", "failed"]
    second = Events(path, "2")
    assert second.failed_before == {"a"}
    second.done("b", float("nan"))
    attempt, done = tail.new()
    assert attempt["task"] == "2" and done["result"] != done["result"]
    assert os.stat(path).st_size == tail._offset
