"""The table at the end of a sweep."""

import io
import math
from pathlib import Path

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
