"""One run as its folder tells it."""

import json
import math

import pytest

from helpers.compare_runs import write_run
from runner.browse.list import main as list_runs
from runner.browse.show import curve, main


@pytest.mark.parametrize(
    "values,line",
    [
        ([0.0, 1.0], "▁█"),
        ([2.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([0.0, math.nan, 7.0], "▁×█"),  # noqa: RUF001
        ([math.inf], "×"),  # noqa: RUF001
        ([7.0, 0.0] * 40, "▁" * 40),
    ],
)
def test_a_curve(values, line):
    assert curve(values) == line


def test_a_run_is_shown(tmp_path, capsys):
    folder = tmp_path / "run"
    write_run(folder, seed=3, config={"name": "\x1b[31mred"})
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "seed: 3" in said and "── b1: 0.9" in said
    assert "\x1b" not in said  # what a folder says never reaches a terminal as it is
    assert "validation/loss" in said


def test_a_folder_of_several_runs_is_refused_with_one_of_them(tmp_path, capsys):
    for name in ("a", "b"):
        write_run(tmp_path / name)
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "holds 2 runs" in said and "list" in said


def test_a_run_that_failed_before_it_was_configured(tmp_path, capsys):
    (tmp_path / "sweep" / "job").mkdir(parents=True)
    text = '{"status": "failed", "error": "model: no such thing"}'
    (tmp_path / "sweep" / "job" / "summary.json").write_text(text)
    assert main([str(tmp_path / "sweep")]) == 0
    assert "failed\nmodel: no such thing" in capsys.readouterr().out


def test_a_run_that_ended_early_says_why(tmp_path, capsys):
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    why = "validation/loss has not improved for 2 evaluations"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stopped": why}))
    assert main([str(tmp_path / "run")]) == 0
    assert f"run: finished: {why}\n" in capsys.readouterr().out
    assert list_runs([str(tmp_path), "--show", "stopped"]) == 0
    assert why in capsys.readouterr().out


def test_the_only_run_of_a_folder_is_shown(tmp_path, capsys):
    write_run(tmp_path / "sweep" / "job", seed=3)
    assert main([str(tmp_path / "sweep")]) == 0
    assert "seed: 3" in capsys.readouterr().out
