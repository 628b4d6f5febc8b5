"""What a replay makes of a record: edited, cut short, damaged, or not to be trusted."""

import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.replayed import edit, recorded, run
from runner.replay.__main__ import main
from runner.saved.record import read
from runner.saved.trusted import check_targets

pytestmark = pytest.mark.usefixtures("shared_session")
__all__ = ["recorded", "run"]  # fixtures


@pytest.mark.parametrize(
    ("edits", "status", "said"),
    [
        (
            {"seed": 1},
            3,
            ["seed 0 -> 1",
             "before training: initial_parameters, data_order, first_batch.",
             "Not reproduced: ", "at step 1, train/"],
        ),
        (
            {"optimizer__learning_rate": 0.01, "schedule__value": 0.01},
            3,
            ["changed since: optimizer.learning_rate 0.001 -> 0.01, schedule.value",
             "at step 1, train/learning_rate was 0.0010000000474974513 and is 0.0099"],
        ),
        ({"optimizer__b1": 0.5}, 3, ["before training: optimizer_probe", "at step "]),
        ({"objective": "train/loss"}, 0, ["objective validation/loss -> train/loss"]),
    ],
)  # fmt: skip
def test_an_edited_config(run, capsys, edits, status, said):
    edit(run, "config", **edits)
    assert main([str(run)]) == status
    out = capsys.readouterr().out
    assert all(text in out for text in said), out


def test_a_learning_rate_that_trains_nothing_is_no_success(run, capsys):
    edit(run, "config", optimizer__learning_rate=0.01)
    assert main([str(run)]) == 1
    told = capsys.readouterr().err
    assert "schedule.value is 0.001, but optimizer.learning_rate, its source" in told
    assert main([str(run), "--allow-contradiction"]) == 0
    assert "optimizer.learning_rate 0.001 -> 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"trian": 1}, "has no key 'trian'"),
        ({"train__stepz": 1}, "train has no key 'stepz'"),
        ({"seed": "none"}, "seed must be a whole number"),
        ({"model___target_": "gone.model"}, "conf/ doesn't: gone.model. --config-dir"),
        ({"optimizer__beta": 1}, "optimizer.beta is not an argument of optax.adam"),
        ({"data__api_key": "<redacted>"}, "data.api_key is a secret"),
        ({"train__epochs": 2}, "train.steps is 6, but train.epochs=2 of"),
    ],
)
def test_a_config_that_cannot_run(run, capsys, edits, said):
    edit(run, "config", **edits)
    assert main([str(run)]) == 1
    assert said in capsys.readouterr().err


def test_a_key_younger_than_the_record_has_its_default(run, capsys):
    tree = json.loads((run / "config.json").read_text())
    del tree["train"]["clip_global_norm"], tree["verify"]
    (run / "config.json").write_text(json.dumps(tree))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "train.clip_global_norm null -> nothing, verify True -> nothing" in out
    del tree["hydra"]
    (run / "config.json").write_text(json.dumps(tree))
    assert main([str(run)]) == 1
    told = capsys.readouterr()
    assert "not compared with conf/: no overrides are recorded" in told.out
    assert "config.json has no train.clip_global_norm" in told.err


def test_a_record_without_the_newer_facts_is_replayed_bit_for_bit(run, capsys):
    path = run / "provenance.json"
    tree = json.loads(path.read_text())
    for name in (
        "data_digest",
        "first_batch",
        "environment",
        "module_digests",
        "runner_files",
    ):
        del tree[name]
    path.write_text(json.dumps(tree))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "bit for bit" in out and "even before" not in out


@pytest.mark.parametrize("status", ["running", "failed", None])
def test_a_run_that_was_cut_short(run, capsys, status):
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(text[:2]) + text[2][:20])
    edit(run, "summary", status=status)
    if status is None:
        (run / "summary.json").unlink()
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "(cut short, 2 logged rows)" in out
    assert f"Replayed 2 of 6 steps of {run}: all 2 logged rows equal" in out


def test_a_finished_run_that_lost_rows(run, capsys):
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(text[:3]))
    assert main([str(run)]) == 3
    assert "step 6 is logged now, but was not recorded" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "provenance.json"])
def test_a_missing_or_broken_file(run, capsys, name):
    path = run / name
    path.write_text("{torn\n")
    assert main([str(run)]) == 1
    assert name in capsys.readouterr().err
    path.write_text("[]\n")
    assert main([str(run)]) == 1
    path.unlink()
    assert main([str(run)]) == 1
    assert f"{path} can't be read: No such file" in capsys.readouterr().err


def test_no_run(run, tmp_path, capsys):
    for path, said in [
        (tmp_path / "gone", "doesn't exist"),
        (tmp_path, f"is not a run but has several; name one, such as {run}"),
        (run / "config.json", "not a .wandb file of W&B's: name a run folder"),
    ]:
        assert main([str(path)]) == 1
        assert said in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([str(empty)]) == 1
    assert "is not a run: it has no config.json" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("")
    assert main([str(run)]) == 1
    assert "no metrics to compare" in capsys.readouterr().err


def test_a_user_s_own_conf_is_found_again(run, tmp_path, capsys):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nobjective: train/loss\n")
    overrides = json.loads((run / "config.json").read_text())["hydra"]["overrides"]
    edit(run, "config", hydra__overrides=[*overrides, "experiment=mine"])
    edit(run, "config", objective="train/loss")
    edit(run, "provenance", command=["runner", "--config-dir", "own"])
    edit(run, "provenance", folder=str(tmp_path))
    assert main([str(run)]) == 0
    assert "warning" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "own")
    assert main([str(run)]) == 0
    assert "not compared with conf/: experiment=mine is" in capsys.readouterr().out
    gone = str(tmp_path / "own")
    assert main([str(run), "--config-dir", gone]) == 1
    assert f"--config-dir {gone} is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edits", "named"),
    [
        ({"model___target_": "os.system"}, "os.system"),
        ({"metrics": {"a": {"_target_": "helpers.evil.f"}}}, "helpers.evil.f"),
        ({"data__transforms": [{"_target_": "${seed}"}]}, "${seed}"),
        ({"data__name": "helpers.evil:Builder"}, "helpers.evil:Builder"),
    ],
)
def test_what_only_the_folder_names_is_not_imported(
    run, tmp_path, capsys, edits, named
):
    edit(run, "config", **edits)
    assert main([str(run)]) == 1
    assert f"names functions that conf/ doesn't: {named}" in capsys.readouterr().err
    own = tmp_path / "own"
    own.mkdir()
    key = "name" if ":" in named else "_target_"
    (own / "x.yaml").write_text(f'{key}: "{named}"\n')
    (own / "latin.yaml").write_bytes("a: für".encode("latin-1"))
    (own / ".#x.yaml").symlink_to("somebody@host.1")  # as Emacs locks a file
    if "$" not in named:
        check_targets(read(run), own, "")


def test_a_trusted_folder_is_imported(run, capsys):
    edit(run, "config", model___target_="gone.model")
    assert main([str(run), "--trust"]) == 1
    assert "gone.model can't be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: _replaced(run / "config.json", os.mkfifo), "not a regular file"),
        (lambda run: _replaced(run / "metrics.jsonl", os.mkfifo), "not a regular file"),
        (lambda run: (run / "config.json").write_text("[" * 10**4), "64 levels"),
        (lambda run: os.truncate(run / "metrics.jsonl", 300 << 20), "at most 256 MiB"),
        (lambda run: (run / "metrics.jsonl").write_text("\x1b[2J\n"), "not a JSON obj"),
        (lambda run: edit(run, "config", hydra__overrides=[3]), "no list of text"),
        (lambda run: edit(run, "config", trian="\x1b[2J"), "has no key"),
    ],
)
def test_a_hostile_folder_is_named(run, capsys, spoil, told):
    spoil(run)
    assert main([str(run)]) == 1
    shown = capsys.readouterr()
    assert told in shown.err and str(run) in shown.err
    assert "\x1b" not in shown.out + shown.err


def _replaced(path: Path, make) -> None:
    path.unlink()
    make(path)
