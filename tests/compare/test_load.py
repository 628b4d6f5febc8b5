import contextlib
import json
import math
import random
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.compare_runs import write_run, write_sweep
from runner.compare.load import load, natural
from runner.errors import ConfigError
from runner.record.files import MetricsFile
from runner.record.format import FORMAT
from runner.saved.saved_run import load_run


def test_a_run_is_a_row_of_natural_types(tmp_path):
    write_run(
        tmp_path / "run",
        final=0.25,
        config={"model.hidden_sizes": [128, 64], "train.mask": False},
        framework="jax",
        seed=3,
    )
    runs = load([tmp_path])
    row = runs.table.row(0, named=True)
    assert row["run"] == "run" and row["status"] == "finished" and row["seed"] == 3
    assert row["framework"] == "jax" and row["optimizer"] == "adam"
    assert row["optimizer.b1"] == 0.9 and row["train.steps"] == 30
    assert row["model.hidden_sizes"] == "[128, 64]" and row["train.mask"] is False
    assert row["provenance.packages.jax"] == "0.10.2"
    assert (
        row["final.validation/loss"] == 0.25 and row["best_step.validation/loss"] == 30
    )
    assert row["compile_seconds"] is None and row["wall_seconds"] == 1.5
    assert runs.curves.columns[:2] == ["run", "step"]
    assert runs.curves["step"].to_list() == [10, 20, 30]
    assert runs.curves["validation/loss"].to_list() == [2.0, 1.125, 0.25]
    assert runs.problems == ()


def test_a_run_whose_process_is_gone_without_a_word_was_killed(tmp_path):
    folder = write_run(tmp_path / "run", status="running", config={"format": FORMAT})
    assert load([folder]).table["status"].to_list() == ["killed"]
    assert load_run(folder).summary["status"] == "killed"
    with contextlib.closing(MetricsFile(folder / "metrics.jsonl")):
        assert load([folder]).table["status"].to_list() == ["running"]


def test_the_order_of_paths_and_repeats_do_not_matter(tmp_path):
    folders = write_sweep(tmp_path / "a", range(3), {"adam": 0.3, "sgd": 0.5})
    folders = [*folders, write_run(tmp_path / "b" / "10"), write_run(tmp_path / "b/9")]
    expected = load([tmp_path])
    assert expected.table["run"].to_list()[-2:] == ["b/9", "b/10"]
    for seed in range(3):
        paths = [*folders, tmp_path / "b", folders[0], tmp_path / "a" / ".." / "a"]
        random.Random(seed).shuffle(paths)
        again = load(paths)
        assert again.table.equals(expected.table)
        assert again.curves.equals(expected.curves)


def test_jobs_of_a_sweep_that_were_removed_are_named(tmp_path):
    write_sweep(tmp_path / "s", range(2), {"adam": 0.3, "sgd": 0.5})
    states = {"adam-0": "done", "sgd-2": "failed", "sgd-3": "pending", "sgd-4": 4}
    jobs = {k: {"folder": k, "state": state} for k, state in states.items()}
    (tmp_path / "s" / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    (problem,) = load([tmp_path]).problems
    assert problem == f"{tmp_path / 's'}: of its jobs, these are gone: sgd-2"
    assert not load([tmp_path / "s" / "sgd-0"]).problems  # which was asked for
    for spoiled in ("[]", '{"jobs": [1]}', '{"jobs": {"a": 1}}', "{"):
        (tmp_path / "s" / "sweep.json").write_text(spoiled)
        assert not load([tmp_path]).problems


def test_not_finite_repeated_and_torn_rows(tmp_path):
    folder = write_run(tmp_path / "run", rows=1)
    lines = [
        {"step": 10, "validation/loss": 1.0, "note": "a"},
        {"step": 20, "validation/loss": 5.0},
        {"step": 20, "validation/loss": "NaN", "only/here": "-Infinity"},
        {"step": 30, "validation/loss": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 40, "eval/l')
    curves = load([folder]).curves
    assert curves["step"].to_list() == [10, 20, 30]
    assert curves.dtypes == [pl.String, pl.Int64, *[pl.Float64] * 3]
    first, second, third = curves["validation/loss"]
    assert (first, third) == (1.0, 1.0) and math.isnan(second)
    assert curves["only/here"].to_list() == [None, -math.inf, None]
    assert curves["note"].null_count() == 3


def test_damaged_runs_are_reported_and_the_others_read(tmp_path):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "config") / "config.json").write_text('{"seed": ')
    (write_run(tmp_path / "list") / "summary.json").write_text("[]")
    (write_run(tmp_path / "rows") / "metrics.jsonl").write_text("x\n{}\n")
    (write_run(tmp_path / "bytes") / "config.json").write_bytes(b"\xff\xfe")
    early = tmp_path / "early"
    early.mkdir()
    (early / "summary.json").write_text('{"status": "failed", "error": "ConfigError"}')
    runs = load([tmp_path])
    assert runs.table["run"].to_list() == ["early", "good"]
    assert runs.table["status"].to_list() == ["failed", "finished"]
    assert len(runs.problems) == 4 and all("\n" not in p for p in runs.problems)
    assert "summary.json is not a JSON object" in " ".join(runs.problems)


def test_no_run_is_a_mistake_told_with_its_reason(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json or summary"):
        load([tmp_path])
    with pytest.raises(ConfigError, match="missing is not a folder"):
        load([tmp_path / "missing"])
    (write_run(tmp_path / "bad") / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        load([tmp_path])


def test_files_of_other_programs_do_not_break_a_comparison(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text('{"hydra": "x", "seed": "a", "run": 3}')
    (folder / "summary.json").write_text(
        '{"final": [1], "best": {"a": 2}, "status": 1}'
    )
    (folder / "metrics.jsonl").write_text('{"step": "x"}\n{"step": 1, "a": [2]}\n')
    write_run(tmp_path / "ours", seed=5)
    runs = load([tmp_path])
    assert runs.problems == () and runs.table["seed"].to_list() == [None, 5]
    assert runs.table["run"].to_list() == ["other", "ours"]


def test_columns_of_several_types_become_text(tmp_path):
    for i, value in enumerate([1, "auto", None, [1.5], True]):
        write_run(tmp_path / str(i), config={"train.steps_per_call": value})
    values = load([tmp_path]).table["train.steps_per_call"].to_list()
    assert values == ["1", "auto", None, "[1.5]", "true"]


def test_folders_of_wandb_and_checkpoints_are_not_searched(tmp_path):
    folder = write_run(tmp_path / "run")
    write_run(folder / "wandb" / "files")
    write_run(folder / "nested")
    assert load([tmp_path]).table["run"].to_list() == ["run", "run/nested"]


def test_a_thousand_runs(tmp_path):
    for i in range(1000):
        write_run(tmp_path / str(i), rows=2, seed=i)
    runs = load([tmp_path])
    assert runs.table["run"].to_list() == [str(i) for i in range(1000)]
    assert runs.curves.height == 2000


def test_reading_needs_no_jax_hydra_or_wandb():
    code = (
        "import sys, runner.compare.load, runner.compare.__main__\n"
        "print({'jax', 'hydra', 'omegaconf', 'wandb', 'altair'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize(
    "ordered",
    [
        ["job9", "job10"],
        ["1e-05", "0.0001", "0.000324", "0.00105", "0.01", "0.10", "10", "1e2"],
        ["lr=0.0015,seed=9", "lr=0.0015,seed=10", "lr=0.002,seed=0"],
        ["0.9.0", "0.10.0", "0.10.2"],
        ["run_0.0015.yaml", "run_0.002.yaml"],
    ],
)
def test_numbers_in_names_have_their_order(ordered):
    assert sorted(reversed(ordered), key=natural) == ordered


@given(st.lists(st.text("ab12.e-/", max_size=6)))
def test_natural_order_is_total(names):
    ordered = sorted(names, key=natural)
    assert sorted(reversed(ordered), key=natural) == ordered or len(
        {str(natural(n)) for n in names}
    ) < len(set(names))
