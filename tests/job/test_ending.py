"""What a run leaves at its end: the test splits' numbers, and its state."""

import json
import re
import shutil

import numpy as np
import pytest

from runner import load_run
from runner.errors import ConfigError
from runner.record import checksums

LENGTH = ("train.steps=8", "train.epochs=null")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_test_split_comes_once_and_the_state_gives_it_again(ran, tmp_path):
    rows = ran(tmp_path / "run", *LENGTH)
    assert not any(key.startswith("test") for row in rows for key in row)
    final = summary(tmp_path / "run")["final"]
    saved = load_run(tmp_path / "run")
    split = saved._model(()).run.spec.dataset.splits["test"]
    columns = split.rows(np.arange(len(split)))
    logits = np.asarray(saved.predict({"input": columns["input"]}))
    hits = logits.argmax(axis=-1) == columns["label"]
    assert final["test/accuracy"] == pytest.approx(hits.mean(), abs=1e-6)


def test_the_best_state_is_tested_where_it_is_kept(ran, tmp_path):
    """With a learning rate that spoils a good start, the last state is another."""
    spoiled = (*LENGTH, "optimizer=sgd", "schedule=piecewise_constant",
               "schedule.boundaries=[6]", "schedule.scales=[300]",
               "optimizer.learning_rate=0.3", "train.eval_every_steps=2")  # fmt: skip
    rows = ran(tmp_path / "best", *spoiled, "checkpoint.best=true")
    ran(tmp_path / "last", *spoiled)
    best, last = (summary(tmp_path / name)["final"] for name in ("best", "last"))
    assert best["validation/loss"] == last["validation/loss"]
    losses = [row["validation/loss"] for row in rows if "validation/loss" in row]
    assert min(losses) < losses[-1]
    assert best["test/loss"] < last["test/loss"]


def test_splits_may_be_absent_or_several(ran, tmp_path):
    several = (
        "data.splits.validation='test[:99]'", "+data.splits.validation_b='test[99:]'",
        "data.splits.test=null",
    )  # fmt: skip
    rows = ran(tmp_path / "several", *LENGTH, *several)
    assert {"validation/loss", "validation_b/loss"} <= set(rows[-1])
    final = summary(tmp_path / "several")["final"]
    assert not any(key.startswith("test") for key in final)
    alone = ("data.splits.validation=null", "data.splits.test=null")
    rows = ran(tmp_path / "alone", *LENGTH, *alone, "objective=train/loss")
    assert {key.split("/")[0] for key in rows[-1]} <= {"step", "train", "time"}
    with pytest.raises(ConfigError, match="objective=validation/loss is not a metric"):
        ran(tmp_path / "no", *LENGTH, *alone)


def test_a_damaged_state_is_one_message(ran, tmp_path):
    ran(tmp_path, *LENGTH)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"state\.safetensors is damaged"):
        _ = load_run(tmp_path).parameters
    path.unlink()
    _ = load_run(tmp_path).parameters  # of the checkpoint of the same step
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"no state: state\.safetensors isn't there"):
        _ = load_run(tmp_path).parameters


def test_only_what_conf_names_is_imported(ran, tmp_path):
    ran(tmp_path, *LENGTH)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["_target_"] = "os.system"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json isn't as the run wrote it"):
        load_run(tmp_path)
    (tmp_path / checksums.FILE).unlink()
    saved = load_run(tmp_path)
    assert saved.parameters
    with pytest.raises(ConfigError, match=r"conf/ doesn't: os\.system"):
        saved.predict({"input": np.zeros((1, 8, 8, 1), np.uint8)})


def test_the_command_of_a_finished_run_says_so(ran, tmp_path, capsys):
    rows = ran(tmp_path, *LENGTH)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    final = summary(tmp_path)["final"]["validation/loss"]
    # What is recorded, and where, is no other run.
    for more in ([], ["wandb.notes=b", "checkpoint.keep=3", "train.log_every_steps=2"]):
        capsys.readouterr()
        assert ran(tmp_path, *LENGTH, *more) == rows
        said = capsys.readouterr().err
        assert "has finished already" in said and f"{final:.6g}" in said
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_another_run_is_refused_in_its_folder(ran, tmp_path):
    ran(tmp_path, *LENGTH)
    for override, said in (
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate=0.001, now 0.5"),
        ("train.steps=4", "train.steps=8, now 4"),
        ("train.stop.value=0.1", "train.stop.value=None, now 0.1"),
        ("seed=7", "seed=0, now 7"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            ran(tmp_path, *(o for o in LENGTH if o[:11] != override[:11]), override)
