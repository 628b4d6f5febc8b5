"""`python -m runner.compare` on written runs: what it says, writes and returns."""

import itertools
import json
import os
import subprocess
import sys

import polars as pl
import pytest

from helpers.compare_runs import write_run, write_sweep
from helpers.fake_wandb import FakeWandb
from runner.compare.__main__ import main
from runner.compare.analysis import analyse
from runner.compare.load import load
from runner.errors import ConfigError

PROBES = {"adam": [0.1, 0.2], "sgd": [1.0, 2.0]}


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on tmp_path/runs; returns its exit status, output and errors."""

    def run(*arguments):
        folder = str(tmp_path / "runs")
        fixed = ["--out", str(tmp_path / "out"), "--no-report"]
        status = main([folder, *fixed, *arguments])
        return status, *capsys.readouterr()

    return run


def test_a_sweep_over_optimizers(tmp_path, run):
    write_sweep(tmp_path / "runs", range(5), {"sgd": 0.7, "adam": 0.3})
    status, out, err = run("--target", "0.5", "--strict")
    assert status == 0 and not err
    first, second, *_ = out.splitlines()
    assert first.startswith("adam is better than sgd on validation/loss by 0.40")
    assert first.endswith("over 5 paired seeds")
    assert second.startswith("CONTROLLED: of what was recorded, only optimizer and")
    assert "unknown, so not compared: optimizer probe (not recorded in 10 of 10" in out
    assert "nothing was tuned" in out
    assert "never" in out
    table = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert table.height == 10 and table["optimizer"].n_unique() == 2
    assert pl.read_csv(tmp_path / "out" / "runs.csv").height == 10


@pytest.mark.smoke
def test_frameworks_agree_and_the_optimizer_explains(tmp_path, run):
    for framework in ("jax", "linen", "nnx"):
        tiny = 1e-7 * (framework == "nnx")
        for optimizer, final in (("adam", 1.0138), ("sgd", 1.8357)):
            for seed in range(3):
                name = f"{framework}-{optimizer}-{seed}"
                write_run(
                    tmp_path / "runs" / name,
                    framework=framework,
                    optimizer=optimizer,
                    seed=seed,
                    final=final + 0.01 * seed + tiny,
                    provenance={
                        "optimizer_probe": PROBES[optimizer],
                        "initial_parameters": seed,
                        "data_digest": {"train": {"label": "ab"}},
                        "data_order": seed,
                        "first_batch": seed,
                    },
                )
    status, out, _ = run("--by", "framework", "--strict")
    assert status == 0
    first, second, third, *_ = out.splitlines()
    assert first == (
        "jax, linen and nnx agree on validation/loss within 1e-4 of its value (largest "
        "difference 1e-07); "
        "optimizer explains over 99.9 % of the variance"
    )
    assert second.startswith("CONTROLLED") and "unknown" not in out
    assert third.startswith(
        "also vary, compared at equal values: optimizer (adam, sgd)"
    )
    first, *_ = run()[1].splitlines()
    assert first == (
        "optimizer explains the difference: adam is better than sgd on validation/loss "
        "by 0.8219 [0.8219, 0.8219] over 3 paired seeds; framework makes no difference "
        "(at most 1e-07)"
    )
    # flax #4087 compared these two alone.
    folders = [str(tmp_path / "runs" / n) for n in ("jax-adam-0", "linen-sgd-0")]
    out = str(tmp_path / "out")
    arguments = [*folders, "--by", "framework", "--no-report", "--out", out]
    assert main(arguments) == 0 and main([*arguments, "--strict"]) == 3


def test_of_two_runs_it_first_says_what_differs(tmp_path, run):
    """flax #4087 in one screen: the names are the same, and the updates aren't."""
    for name, final in (("jax", 1.0138), ("linen", 1.8357)):
        probe = PROBES["adam" if name == "jax" else "sgd"]
        facts = {"optimizer_probe": probe, "packages": {"flax": name}, "pid": final}
        folder = tmp_path / "runs" / name
        write_run(folder, framework=name, final=final, provenance=facts)
    lines = run()[1].splitlines()
    assert lines[1].startswith("What differs")
    assert [line.split()[0] for line in lines[2:6]] == [
        "key", "optimizer_probe", "framework", "packages.flax",
    ]  # fmt: skip
    assert lines[3].split()[1:] == ["[0.1,", "0.2]", "[1.0,", "2.0]"]
    assert lines[6].startswith("MISLABELED: jax and linen are configured with the sa")
    write_run(tmp_path / "runs" / "third", framework="nnx")
    assert "What differs" not in run()[1]


def test_what_follows_is_a_line_and_the_rest_on_request(tmp_path, run):
    keys = {f"optimizer.{'k' * 20}{i}": i for i in range(40)}
    for seed in range(2):
        write_run(tmp_path / "runs" / f"a{seed}", seed=seed, config=keys)
        write_run(tmp_path / "runs" / f"b{seed}", seed=seed, optimizer="sgd")
    for more, longest in (((), 200), (("--keys",), 5000)):
        (line,) = [x for x in run(*more)[1].splitlines() if x.startswith("follows")]
        assert longest / 10 < len(line) < longest


def test_frameworks_are_not_averaged_over_optimizers(tmp_path, run):
    for framework in ("jax", "nnx"):
        for optimizer, final in (("adam", 0.1), ("sgd", 1.1)):
            for seed in range(3):
                folder = tmp_path / "runs" / f"{framework}-{optimizer}-{seed}"
                choices = {"framework": framework, "optimizer": optimizer}
                write_run(folder, seed=seed, final=final + 0.01 * seed, **choices)
    _, out, _ = run("--by", "framework")
    assert "0.61" not in out and "0.11 " in out and "1.11 " in out


def test_confounded_and_called_the_same_come_first(tmp_path, run):
    runs = tmp_path / "runs"
    write_run(runs / "a", framework="jax", provenance={"optimizer_probe": [0.1]})
    write_run(runs / "b", framework="linen", provenance={"optimizer_probe": [1.0]})
    status, out, _ = run("--by", "framework", "--strict")
    assert status == 3
    at = out[out.index("MISLABELED") :]
    first, second, third, *_ = at.splitlines()
    assert first.startswith("MISLABELED: a and b are configured with the same opt")
    assert second.startswith("no fair comparison by framework: optimizer probe differs")
    assert third.startswith(
        "CONFOUNDED: optimizer probe differs with framework (jax: p"
    )
    assert run("--by", "framework")[0] == 0


@pytest.mark.parametrize("effect,explains", [(0.11, False), (0.2, True)])
def test_more_than_half_of_the_variance_explains_the_difference(
    tmp_path, run, effect, explains
):
    for choice in itertools.product((0, 1), repeat=4):
        optimizer, model, framework, seed = choice
        write_run(
            tmp_path / "runs" / "".join(map(str, choice)),
            final=1 + effect * optimizer + 0.1 * model + 0.1 * framework,
            seed=seed,
            optimizer=("adam", "sgd")[optimizer],
            model=("mlp", "cnn")[model],
            framework=("jax", "nnx")[framework],
        )
    first = run("--by", "optimizer")[1].splitlines()[0]
    assert "adam is better than sgd" in first
    assert first.startswith("optimizer explains the difference: ") == explains


def test_failed_runs_count_and_unfinished_ones_are_left_out(tmp_path, run):
    write_sweep(tmp_path / "runs", range(2), {"sgd": 0.7, "adam": 0.3})
    write_run(tmp_path / "runs" / "dead", status="failed", final=0.3, seed=2)
    write_run(tmp_path / "runs" / "cut", status="running", seed=1)
    early = tmp_path / "runs" / "early"
    early.mkdir()
    (early / "summary.json").write_text('{"status": "failed", "error": "ConfigError"}')
    broken = write_run(tmp_path / "runs" / "broken")
    (broken / "config.json").write_text("{")
    status, out, _ = run()
    assert status == 0
    assert "warning: left out, not finished: cut (killed), early (failed)" in out
    assert "adam: 1 of 3 runs ended without a finite validation/loss (dead (fai" in out
    assert "warning: not read: " in out and "config.json is not JSON" in out
    sgd, adam = analyse(load([tmp_path / "runs"])).final.groups
    assert (adam.name, adam.failed, sgd.failed) == ("adam", 1, 0)
    assert adam.values[2] == 2.0  # at which runs began


def test_a_framework_does_not_win_by_a_learning_rate_that_only_it_tried(tmp_path):
    for framework, rates in (("jax", (0.01,)), ("nnx", (0.01, 0.1))):
        for rate in rates:
            for seed in range(3):
                write_run(
                    tmp_path / f"{framework}-{rate}-{seed}",
                    framework=framework,
                    seed=seed,
                    final=0.5 - rate + 0.01 * seed,
                    config={"optimizer.learning_rate": rate},
                )
    analysis = analyse(load([tmp_path]), by="framework")
    (comparison,) = analysis.final.comparisons
    assert comparison.verdict == "agree" and comparison.difference == 0
    assert analysis.control.controlled and len(analysis.control.unmatched) == 3


def test_one_seed_and_one_group_are_not_ranked(tmp_path, run):
    write_run(tmp_path / "runs" / "a", optimizer="adam", final=0.1)
    _, out, _ = run()
    assert out.startswith("nothing to compare: optimizer is adam in all runs that e")
    assert "CONTROLLED" not in out
    write_run(tmp_path / "runs" / "b", optimizer="sgd", final=0.9)
    _, out, _ = run()
    assert "\nno ranking by optimizer: one seed can't tell a difference" in out


def test_noise_says_how_many_seeds_it_would_take(tmp_path, run):
    write_sweep(tmp_path / "runs", range(4), {"sgd": 0.5, "adam": 0.5}, noise=0.2)
    _, out, _ = run()
    first = out.splitlines()[0]
    assert first.startswith("no best optimizer on validation/loss: ")
    assert "are not separable" in first
    assert "; 30 more seeds would show a difference of half a standard dev" in first


def test_mistakes_name_the_nearest(tmp_path, run):
    write_sweep(tmp_path / "runs", range(2), {"sgd": 0.7, "adam": 0.3})
    status, out, err = run("--by", "optimiser")
    assert (status, out) == (1, "") and "Did you mean 'optimizer'?" in err
    status, _, err = run("--metric", "validation/los")
    assert status == 1 and "Did you mean 'validation/loss'?" in err
    status, _, err = run("--budget", "0")
    assert (status, err) == (1, "error: --budget 0 must be at least 1\n")
    (tmp_path / "out").write_text("a file")
    status, _, err = run()
    assert status == 1 and err.startswith("error: --out ")
    assert main([str(tmp_path / "nothing")]) == 1


def test_git_that_could_not_be_asked_is_no_error(tmp_path):
    git = {"commit": "c0ffee", "dirty": None}
    write_run(tmp_path / "a", provenance={"git": git})
    assert analyse(load([tmp_path])).warnings == ()


def test_what_else_a_person_should_know_is_shown(tmp_path):
    for seed in range(2):
        facts = {"initial_parameters": "i", "in_training_too": {"test": 3 * seed}}
        folder = write_run(tmp_path / f"{seed}", seed=seed, provenance=facts)
        path = folder / "summary.json"
        told = json.loads(path.read_text()) | {"unchanged": ["params/a", "params/b"]}
        path.write_text(json.dumps(told))
    warnings = analyse(load([tmp_path])).warnings
    assert "other seeds start from the same initial values" in warnings
    assert "3 examples of the split test are in train too" in warnings
    assert 'training never changed ["params/a", "params/b"] of 0, 1' in warnings


def test_a_choice_by_the_test_split_is_shown(tmp_path):
    for seed, split in enumerate(("validation", "test")):
        config = {"validation": split}
        write_run(tmp_path / split, seed=seed, config=config)
    warnings = "\n".join(analyse(load([tmp_path]), "validation").warnings)
    assert "validation/* of 1 of 2 runs is measured on their test split" in warnings


def test_nothing_finished_is_a_mistake(tmp_path):
    write_run(tmp_path / "a", status="failed")
    with pytest.raises(
        ConfigError, match=r"none of the 1 runs is finished: a \(failed"
    ):
        analyse(load([tmp_path]))


@pytest.mark.parametrize("by", ["seed", "optimizer.learning_rate", "schedule.value"])
def test_any_key_can_be_the_factor(tmp_path, by):
    for seed in (0, 1):
        for rate in (0.1, 0.2):
            write_run(
                tmp_path / f"{seed}-{rate}",
                seed=seed,
                final=rate,
                config={"optimizer.learning_rate": rate},
            )
    analysis = analyse(load([tmp_path]), by=by)
    assert analysis.by == by and len(analysis.final.groups) == 2
    assert analysis.control.controlled


def test_a_value_of_the_environment_is_text(tmp_path):
    config = {"optimizer.learning_rate": "${oc.env:LR}", "train.eval_every_steps": 6}
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, config=config)
    assert analyse(load([tmp_path]), by="seed").control.controlled


def test_runs_of_other_programs_without_choices_and_seeds(tmp_path):
    for i, value in enumerate((0.1, 0.2)):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"lr": value}))
        (folder / "summary.json").write_text(
            json.dumps({"status": "finished", "final": {"accuracy": i}})
        )
    analysis = analyse(load([tmp_path]), metric="accuracy")
    assert analysis.by == "lr" and analysis.higher_is_better
    assert [c.verdict for c in analysis.final.comparisons] == ["one seed"]
    assert [g.name for g in analysis.final.groups] == ["0.2", "0.1"]


@pytest.mark.parametrize("name,direction", [("f1", "max"), ("bleu", None)])
def test_only_what_has_a_direction_is_ranked(tmp_path, name, direction):
    for seed in range(2):
        directions = {"loss": "min", name: direction}
        folder = tmp_path / str(seed)
        write_run(folder, seed=seed, provenance={"directions": directions})
        summary = json.loads((folder / "summary.json").read_text())
        summary["final"][f"validation/{name}"] = 0.1 * seed
        (folder / "summary.json").write_text(json.dumps(summary))
    runs = load([tmp_path])
    if direction:
        assert analyse(runs, metric=f"validation/{name}").higher_is_better
        return
    with pytest.raises(ConfigError, match="don't say whether lower or higher"):
        analyse(runs, metric=f"validation/{name}")


def test_the_report_becomes_an_artifact(tmp_path):
    write_sweep(tmp_path / "runs", range(2), {"sgd": 0.7, "adam": 0.3})
    with FakeWandb() as server:
        env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        done = subprocess.run(
            [sys.executable, "-m", "runner.compare", "runs", "--wandb-report"],
            cwd=tmp_path,
            env=env | server.env(),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert not server.unknown
    (run,) = server.runs.values()
    assert f"W&B: {server.url}/me/runner/runs/{run.name}" in done.stdout
    assert (run.last("jobType"), run.exit_code) == ("report", 0)
    (report,) = server.artifacts
    names = ("artifactTypeName", "artifactCollectionName")
    assert [report[n] for n in names] == ["report", "comparison-by-optimizer"]
    page = (tmp_path / "compare" / "report.html").read_bytes()
    assert server.uploads["report.html"] == page
    table = json.loads(server.uploads["runs.table.json"])
    assert len(table["data"]) == 4
    assert {"run", "folder", "optimizer", "seed"} <= {*table["columns"]}


def test_a_report_for_wandb_without_wandb(tmp_path, monkeypatch, capsys):
    write_sweep(tmp_path / "runs", range(2), {"sgd": 0.7, "adam": 0.3})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    out = ["--out", str(tmp_path / "out")]
    monkeypatch.setattr("runner.compare.report.write_report", lambda *_: None)
    assert main([str(tmp_path / "runs"), "--wandb-report", *out]) == 1
    assert "WANDB_MODE=online" in capsys.readouterr().err
