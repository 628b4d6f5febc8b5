"""Any state of a saved run, evaluated on any data."""

import json
import re
import shutil
from pathlib import Path

import pytest

from helpers.saved_runs import RUNS, some_at_night, summary
from runner import load_run
from runner.errors import ConfigError
from runner.evaluate.__main__ import main as evaluate
from runner.record import checksums


@pytest.mark.parametrize("name", some_at_night(RUNS))
def test_the_numbers_are_those_of_training_bit_for_bit(trained, name, capsys):
    folder = trained(name)
    assert evaluate([str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    final, wanted = summary(folder)["final"], {"name": "last", "step": 6}
    if name == "best":
        wanted = {"name": "best", "step": 4}
    assert told["state"] == wanted
    assert told["examples"] == {"validation": 180, "test": 180}
    found = told["metrics"]
    assert found.keys() == {k for k in final if k.startswith(("validation", "test"))}
    for key in found:
        if name == "schedule-free":  # whose average is rounded where it is computed
            assert found[key] == pytest.approx(final[key], rel=1e-5)
        elif name != "best" or key.startswith("test"):
            assert found[key] == final[key]


def test_the_best_and_the_last_state_are_those_of_their_evaluations(trained):
    folder = trained("best")
    numbers = summary(folder)
    best, last = (load_run(folder, state=name) for name in ("best", "last"))
    value = numbers["best"]["validation/loss"]
    assert (best.state.step, last.state.step) == (value["step"], 6) == (4, 6)
    found = [run.evaluate("validation")["validation/loss"] for run in (best, last)]
    assert found == [value["value"], numbers["final"]["validation/loss"]]


@pytest.mark.parametrize(
    "name,asked,said",
    [
        ("jax", "best", "hasn't kept its best state, which checkpoint.best=true does"),
        ("jax", "4", "--state 4: .*It has that of step 6; checkpoint.every_steps"),
        ("jax", "bset", "must be best, last or a step, such as 100"),
        ("best", "last", "It has that of step 4; checkpoint.last=true keeps"),
        ("best", "5", "It has that of step 4; checkpoint.every_steps"),
    ],
)
def test_a_state_that_isnt_there(copied, name, asked, said):
    folder = copied(name)
    shutil.rmtree(folder / "checkpoints" / "6", ignore_errors=True)
    with pytest.raises(ConfigError, match=said):
        load_run(folder, state=asked).evaluate()


def test_a_run_that_was_killed_has_its_checkpoints(ran, tmp_path, capsys):
    folder = tmp_path / "killed"
    rows = ran(folder, "framework=jax", "checkpoint.every_steps=15", stop=34)
    assert not (folder / "state.safetensors").exists()
    assert evaluate([str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    step = told["state"]["step"]
    assert step in (15, 30) and told["state"]["name"] == "last"  # 30, if it was saved
    assert told["metrics"]["validation/loss"] == rows[step - 1]["validation/loss"]
    saved = load_run(folder, state=15)
    assert saved.evaluate()["validation/loss"] == rows[14]["validation/loss"]
    metrics = folder / "metrics.jsonl"  # of another run
    own = metrics.read_text()
    metrics.write_text(own.replace("1", "2", 1))
    (folder / checksums.FILE).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"checkpoints/15 can't be used$"):
        load_run(folder, state=15).evaluate()
    metrics.write_text(own)
    for path in (folder / "checkpoints" / "15").rglob("*"):
        if path.is_file() and path.name != checksums.FILE:
            path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"checkpoints/15 can't be used$"):
        load_run(folder, state=15).evaluate()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ConfigError, match=r"has no state: it is .* no checkpoint"):
        load_run(folder).evaluate()


@pytest.mark.parametrize(
    "overrides,said",
    [
        (["data=linear_ae"], r"the column input is float32\[32\] there, and "
                             r"float32\[8, 8, 1\] in the data"),
        (["data.bach_size=3"], "Did you mean 'batch_size'"),
        (["data=digit"], "Did you mean 'digits'"),
        (["data.batch_size=3,4"], "must be one value"),
        (["optimizer=sgd"], "only the data can be others"),
        (["seed=3"], "only the data can be others, such as data=digits and data.batch"),
        (["data.batch_size"], "is not of the form key=value"),
        (["data.splits.test=null", "--split", "test"], "has no such split; it has "
                                                        "train, validation"),
        (["--split", "tset"], "Did you mean 'test'"),
        (["--split", ""], "--split '': data=digits has no such split; it has train"),
        (["data=3"], "data=3 must be the name of a file in the group data: cifar10"),
    ],
)  # fmt: skip
def test_data_that_cannot_be(trained, overrides, said, capsys):
    folder = str(trained())
    capsys.readouterr()  # of the training, if nothing has trained it before
    assert evaluate([folder, *overrides]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") <= 2
    assert re.search(said, told), told


def test_other_data_and_any_split(trained, capsys):
    folder = trained()
    whole = load_run(folder).evaluate("test")
    given = [str(folder), "data=digits", "data.data_dir=" + _data(folder)]
    both = ["data.splits.validation=test", "data.splits.test=test", "--split", "test"]
    assert evaluate([*given, "data.batch_size=30", *both, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["examples"] == {"test": 360}
    halves = load_run(folder).evaluate()
    mean = (halves["validation/loss"] + halves["test/loss"]) / 2
    assert told["metrics"]["test/loss"] == pytest.approx(mean, rel=1e-5)
    assert whole["test/loss"] == halves["test/loss"]
    assert evaluate([str(folder), "--split", "train"]) == 0
    assert "1,437" in capsys.readouterr().out


def _data(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["data"]["data_dir"]


def test_another_runs_state_is_refused(trained, copied, capsys):
    folder = copied()
    shutil.copy(trained("best") / "state.safetensors", folder)
    assert evaluate([str(folder)]) == 1
    assert "isn't the state that the run ended with" in capsys.readouterr().err


def test_what_has_changed_since_the_run_is_told(copied, capsys):
    folder = copied()
    for name, key, value in (
        ("summary", "final", {"test/loss": 0.5}),
        ("provenance", "module_digests", {"helpers.training": "edited", "gone": "x"}),
    ):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    load_run(folder).evaluate("test")
    warnings = capsys.readouterr().err
    assert "warning: edited since the run: helpers.training\n" in warnings
    assert "and was 0.5 when the run ended" in warnings
    load_run(folder).evaluate("test", ["data.batch_size=30"])
    assert "when the run ended" not in capsys.readouterr().err
