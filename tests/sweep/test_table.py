"""The table at the end of a sweep."""

import io
import json
import math
from pathlib import Path

import pytest

from runner.sweep.job import Job
from runner.sweep.table import print_results


def job(*overrides, result=None, error=None):
    name = ",".join(overrides)
    return Job(0, list(overrides), name, Path(name), "x", 0, None, result, error)


def table(jobs, keys, objective="validation/loss"):
    out = io.StringIO()
    print_results(jobs, keys, Path("sweep"), objective, "accuracy" in objective, out)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_table_averages_over_seeds_and_ranks():
    jobs = [
        job(f"optimizer={name}", f"seed={seed}", result=loss + seed / 10)
        for name, loss in (("sgd", 2.0), ("adam", 1.0))
        for seed in (0, 1)
    ]
    assert table(jobs, ["optimizer", "seed"]) == [
        "validation/loss     sd  runs  setting",
        "           1.05  0.071     2  optimizer=adam",
        "           2.05  0.071     2  optimizer=sgd",
        "compare with: python -m runner.compare sweep --by optimizer",
    ]
    best_first = table(jobs, ["optimizer", "seed"], "validation/accuracy")
    assert best_first[1].endswith("optimizer=sgd")


@pytest.mark.parametrize(
    ("key", "by"),
    [
        ("optimizer.b1", " --by optimizer.b1"),
        ("+model.width", " --by model.width"),
        ("schedule@schedule.base", " --by schedule.base._target_"),
        # compare has no column of a preset, and doesn't count what is only recorded.
        ("experiment", ""),
        ("+probe@probes.a", ""),
        ("probes.a.layer", ""),
        ("tracker", ""),
    ],
)
def test_the_command_that_compares_is_one_that_compare_takes(key, by):
    jobs = [job(f"{key}={value}", result=1.0) for value in "ab"]
    last = table(jobs, [key])[-1]
    assert last == f"compare with: python -m runner.compare sweep{by}"


def test_failures_are_counted_and_nan_comes_last():
    jobs = [
        job("a=1", result=math.nan),
        job("a=2", result=1.0),
        job("a=3", error=ValueError("no")),
    ]
    lines = table(jobs, ["a"])
    assert lines[1].endswith("a=2") and lines[2].endswith("nan  a=1")
    assert lines[3].startswith("1 of 3 jobs failed")


def test_many_rows_are_cut_and_none_are_needed():
    jobs = [job(f"a={i}", result=float(i)) for i in range(40)]
    assert "... and 28 more" in table(jobs, ["a"])
    failed = [job("a=1", error=ValueError()), job("a=2", error=ValueError())]
    assert table(failed, ["a"])[0].startswith("2 of 2 jobs failed")


def test_seeds_alone_are_one_row():
    jobs = [job(f"seed={seed}", result=1.0) for seed in range(3)]
    lines = table(jobs, ["seed"])
    assert lines[1].split() == ["1", "0", "3", "all", "seeds"]
    assert lines[-1] == "compare with: python -m runner.compare sweep"


def job_with(folder, directions, final, *overrides, result):
    """A job that has left its final metrics, and their directions, in its folder."""
    made = job(*overrides, result=result)
    made.folder = folder / made.name
    made.folder.mkdir()
    facts = {"provenance": {"directions": directions}, "summary": {"final": final}}
    for name, values in facts.items():
        (made.folder / f"{name}.json").write_text(json.dumps(values))
    return made


def test_other_metrics_have_columns_and_the_objective_comes_first(tmp_path):
    directions = {"loss": "min", "accuracy": "max", "top5": "max", "size": None}
    jobs = []
    for optimizer, seed in (("sgd", 0), ("sgd", 1), ("adam", 0)):
        final = {
            "train/loss": 1.0, "validation/loss": 0.5 + seed,
            "validation/accuracy": 0.9 - seed / 10, "validation/size": 3.0,
            "validation/top5/3": 0.1, "validation/top5": 0.12345678, "test/loss": 2.0,
        }  # fmt: skip
        overrides = f"optimizer={optimizer}", f"seed={seed}"
        result = 0.5 + seed if optimizer == "sgd" else 0.25
        jobs.append(job_with(tmp_path, directions, final, *overrides, result=result))
    lines = table(jobs, ["optimizer", "seed"])
    assert lines[:3] == [
        "validation/loss    sd  runs  accuracy    top5  setting",
        "           0.25           1       0.9  0.1235  optimizer=adam",
        "              1  0.71     2      0.85  0.1235  optimizer=sgd",
    ]
    (jobs[2].folder / "summary.json").write_text("damaged")
    assert table(jobs, ["optimizer", "seed"])[1].split() == [
        "0.25", "1", "optimizer=adam",
    ]  # fmt: skip


def test_a_table_of_many_metrics_stays_readable(tmp_path):
    names = [f"a_metric_with_a_name_{i}" for i in range(30)]
    directions = dict.fromkeys(names, "max")
    final = {f"validation/{name}": 0.5 for name in names}
    key = "optimizer.learning_rate"
    jobs = [
        job_with(tmp_path, directions, final, f"{key}={x}", result=x)
        for x in (0.1, 0.2)
    ]
    lines = table(jobs, [key])
    assert max(map(len, lines[:3])) <= 80
    assert "a_metric_with_a_name_0  setting" in lines[0]


def test_settings_have_sensible_digits_if_that_tells_them_apart():
    key = "optimizer.learning_rate"
    rates = "0.004430375245218269", "0.0020547625", "5e-05", "128"
    jobs = [job(f"{key}={rate}", result=1.0) for rate in rates]
    shown = [line.rpartition("=")[2] for line in table(jobs, [key])[1:5]]
    assert shown == ["0.00443", "0.002055", "5e-05", "128"]
    names = [f"a=0.10000{i}" for i in (1, 2)]
    lines = table([job(name, result=1.0) for name in names], ["a"])
    assert [line.split()[1] for line in lines[1:3]] == names
