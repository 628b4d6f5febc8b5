"""The commands on a saved run: evaluate, predict and export."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from helpers.training import SESSION
from runner import load_run
from runner.errors import ConfigError
from runner.evaluate.__main__ import main as evaluate
from runner.export.__main__ import main as export
from runner.predict.__main__ import main as predict
from runner.record import checksums
from runner.record.format import run_folders
from runner.saved import saved_run
from runner.saved.model import file_arrays

FIRST_EDITION = Path(__file__).parents[1] / "fixtures" / "first_edition" / "single"
SHORT = ("train.steps=6", "train.eval_every_steps=2", "~checkpoint.last",
         "checkpoint.last=false")  # fmt: skip
CNN = ("model=cnn", "~model.hidden_sizes", "model.channels=[2]", "model.hidden_size=4")
# What each run is trained with, by its name.
RUNS = {
    "jax": ("framework=jax", *SHORT),
    "linen": ("framework=linen", *SHORT),
    "nnx": ("framework=nnx", *SHORT),
    "jax with statistics": ("framework=jax", *SHORT, *CNN),
    "linen with statistics": ("framework=linen", *SHORT, *CNN),
    "nnx with statistics": ("framework=nnx", *SHORT, *CNN),
    "an average": ("framework=jax", *SHORT, "train.ema_decay=0.5"),
    "schedule-free": ("framework=jax", *SHORT, "optimizer=schedule_free_sgd"),
    # The learning rate spoils a good start, so the best state isn't the last.
    "best": (
        "framework=jax", *SHORT, "checkpoint.best=true", "optimizer=sgd",
        "schedule=piecewise_constant", "schedule.boundaries=[4]",
        "schedule.scales=[300]", "optimizer.learning_rate=0.3",
    ),
}  # fmt: skip
WITH_STATISTICS = [name for name in RUNS if name.endswith("statistics")]
AT_NIGHT = (
    "linen", "nnx", "an average", "schedule-free", "jax with statistics",
    "linen with statistics",
)  # fmt: skip
TRAINED: dict[str, Path] = {}


def some_at_night(names):
    marks = [pytest.mark.nightly]
    return [pytest.param(n, marks=marks * (n in AT_NIGHT)) for n in names]


@pytest.fixture
def trained(ran, tmp_path_factory):
    """The folder of a run, which no test changes."""

    def trained(name: str = "jax") -> Path:
        if name not in TRAINED:
            TRAINED[name] = tmp_path_factory.mktemp("saved") / "run"
            ran(TRAINED[name], *RUNS[name])
        return TRAINED[name]

    return trained


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of a run, without the checksums that would show what a test does."""

    def copied(name: str = "jax") -> Path:
        ignored = shutil.ignore_patterns(checksums.FILE)
        return Path(shutil.copytree(trained(name), tmp_path / "copy", ignore=ignored))

    return copied


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def edit(folder: Path, **values) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in values.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    path.write_text(json.dumps(config))


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


def test_rows_of_another_table_are_scaled_as_the_run_has_learned(ran, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, size, shift in (("own", 60, 0.0), ("new", 9, 5.0)):
        x, y = rng.normal(shift, 2, size), rng.normal(size=size)
        rows = {"x": x, "kind": ["a", "b", "b"] * (size // 3), "y": y}
        pl.DataFrame(rows).write_csv(tmp_path / f"{name}.csv")
    ran(tmp_path / "run", *SHORT, "data=table", f"data.path={tmp_path / 'own.csv'}",
        "data.target=y", "task=regression", "data.batch_size=9")  # fmt: skip
    run, new = str(tmp_path / "run"), tmp_path / "new.csv"
    assert evaluate([run, f"data.path={new}", "data.batch_size=2"]) == 1
    assert (
        "split beside the run's own: +data.splits.test_new" in capsys.readouterr().err
    )
    (tmp_path / "own.csv").rename(tmp_path / "moved.csv")
    moved = f"data.path={tmp_path / 'moved.csv'}"
    out = tmp_path / "rows.csv"
    beside = [moved, f"+data.splits.test_new={new}", "--split", "test_new"]
    assert predict([run, *beside, "--out", str(out)]) == 0
    table = pl.read_csv(out)
    assert table.columns == ["index", "output", "target", "loss"]
    np.testing.assert_allclose(table["target"], pl.read_csv(new)["y"], rtol=1e-6)
    losses = (table["output"] - table["target"]) ** 2
    np.testing.assert_allclose(losses, table["loss"], rtol=1e-4)


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


@pytest.mark.parametrize("name", some_at_night(WITH_STATISTICS))
def test_predictions_are_in_the_order_of_the_data(trained, name, tmp_path):
    folder = trained(name)
    out = tmp_path / "rows.parquet"
    assert predict([str(folder), "--out", str(out)]) == 0
    table, saved = pl.read_parquet(out), load_run(folder)
    assert table.columns == ["index", "output", "predicted", "label", "loss"]
    assert table["index"].to_list() == list(range(180))
    split = saved._model(()).run.spec.dataset.splits["test"].rows(np.arange(180))
    assert table["label"].to_list() == split["label"].tolist()
    outputs = np.asarray(saved.predict({"input": split["input"]}))
    # In batches of another size, which XLA adds up in another order.
    found = table["output"].to_numpy()
    np.testing.assert_allclose(found, outputs, rtol=1e-5, atol=1e-6)
    assert (table["output"].arr.arg_max() == table["predicted"]).all()
    numbers = saved.evaluate("test")
    hits = (table["predicted"] == table["label"]).mean()
    assert hits == pytest.approx(numbers["test/accuracy"])
    assert table["loss"].mean() == pytest.approx(numbers["test/loss"], rel=1e-5)


def test_a_text_file_has_a_column_for_each_number(trained, tmp_path):
    out = tmp_path / "rows.csv"
    given = [str(trained()), "--split", "train", "--out", str(out)]
    assert predict(given) == 0
    table = pl.read_csv(out)
    outputs = [f"output_{i}" for i in range(10)]
    assert table.columns == ["index", *outputs, "predicted", "label", "loss"]
    assert len(table) == 1437
    assert predict([*given, "--no-outputs"]) == 0
    assert pl.read_csv(out).columns == ["index", "predicted", "label", "loss"]


@pytest.mark.parametrize(
    "out,said",
    [
        ("rows.txt", "must end in .parquet or .csv"),
        ("a/b.csv", "b.csv can't be written"),
    ],
)
def test_a_table_that_cannot_be_written(trained, out, said, tmp_path, capsys):
    (tmp_path / "a").write_text("a file")
    assert predict([str(trained()), "--out", str(tmp_path / out)]) == 1
    assert said in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


def test_folders_above_what_is_written_are_made(trained, tmp_path):
    given = [str(trained()), "--out"]
    assert predict([*given, str(tmp_path / "some" / "tables" / "rows.csv")]) == 0
    assert export([*given, str(tmp_path / "some" / "models" / "mine")]) == 0
    assert len(list(tmp_path.rglob("*.csv"))) == 1


@pytest.mark.parametrize("name", some_at_night(WITH_STATISTICS))
def test_an_export_starts_another_run_exactly(trained, name, tmp_path, built):
    folder = trained(name)
    out = tmp_path / "model"
    assert export([str(folder), "--out", str(out)]) == 0
    arrays = file_arrays(out)
    assert any(key.startswith("model_state/") for key in arrays)
    assert arrays.keys() == file_arrays(folder).keys()
    small = [o for o in (*RUNS[name], "train.epochs=null") if o[0] != "~"]
    run = built(*small, f"init_from={out}")
    program = SESSION.program(run.spec, run.values, run.timetable)
    state = program.init.result()(*run.init_arguments).state
    for key, value in arrays.items():
        part, *path = key.split("/")
        found = getattr(state, part)
        for step in path:
            found = found[step]
        np.testing.assert_array_equal(np.asarray(found), value, err_msg=key)


def test_what_an_export_is(copied, tmp_path):
    folder = copied()
    edit(folder, wandb__api_key="0123456789abcdef" * 2, data__password="s3cret-word")
    out = load_run(folder).export(tmp_path / "model")
    names = {path.name for path in out.iterdir()}
    assert names == {"README.md", "config.json", "metrics.json", "provenance.json",
                     "state.safetensors"}  # fmt: skip
    assert not any(b"s3cret-word" in p.read_bytes() for p in out.iterdir())
    card = (out / "README.md").read_text()
    told = summary(folder)["final"]["test/loss"]
    assert f"init_from={out}" in card and str(told) in card and "optax.adam" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(code, {})
    assert [path for path in run_folders(tmp_path)] == [folder.resolve()]
    with pytest.raises(ConfigError, match="is an exported model and no run"):
        load_run(out)
    with pytest.raises(ConfigError, match="has files already"):
        load_run(folder).export(out)


@pytest.mark.parametrize(
    ("command", "given", "shown"),
    [
        (["runner", "--config-dir", "my conf", "seed=1"], None, "'my conf'"),
        (["runner", "--config-dir=conf"], None, "conf"),
        (["runner", "-cd", "conf"], "theirs", "theirs"),
        (["notebook"], "conf", "conf"),
        (["other", "--config-dir"], None, None),
    ],
)
def test_its_card_names_the_folder_of_ones_own_files(
    copied, tmp_path, command, given, shown
):
    path = copied() / "provenance.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"command": command}))
    out = load_run(path.parent, config_dir=given).export(tmp_path / "model")
    own = "" if shown is None else f" --config-dir {shown}"
    expected = f"python -m runner{own} init_from={out}"
    assert expected in (out / "README.md").read_text()


@pytest.mark.parametrize("command", [evaluate, predict, export])
def test_runs_that_cannot_be_used(command, copied, tmp_path, capsys):
    more = [] if command is evaluate else ["--out", str(tmp_path / "out.csv")]
    assert command([str(tmp_path / "gone"), *more]) == 1
    assert "doesn't exist" in capsys.readouterr().err
    assert command([str(FIRST_EDITION), *more]) == 1
    assert "is of format 1" in capsys.readouterr().err
    folder = copied()
    edit(folder, model___target_="os.system")
    if command is not export:  # which needs no model
        assert command([str(folder), *more]) == 1
        assert "conf/ doesn't: os.system. --trust" in capsys.readouterr().err
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-8])
    assert command([str(folder), *more, "--trust"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    (folder / "config.json").write_text("{")
    assert command([str(folder), *more]) == 1
    assert "config.json is not JSON" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_its_hooks_are_neither_trusted_nor_needed(copied):
    folder = copied()
    edit(folder, probes__x={"_target_": "gone.f"}, callbacks__y={"_target_": "gone.g"})
    assert load_run(folder).evaluate("test")


def test_an_error_of_ones_own_model_is_told_with_its_frames_alone(copied, capsys):
    folder = copied()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model"] = {"_target_": "helpers.raising.called"}
    path.write_text(json.dumps(config))
    assert evaluate([str(folder), "--trust"]) == 1
    told = capsys.readouterr().err
    assert (
        told.startswith("error: ArithmeticError: mine to see") and "raising.py" in told
    )
    assert "src/runner" not in told


def test_a_file_of_wandb_holds_no_model(monkeypatch, copied, tmp_path):
    file = tmp_path / "run-1.wandb"
    recorded = saved_run.read(copied())._replace(source=file)
    monkeypatch.setattr(saved_run, "read", lambda path: recorded)
    with pytest.raises(ConfigError, match=r"run-1\.wandb holds no model: name the run"):
        load_run(file)


@pytest.mark.nightly
def test_the_page_says_what_runs(trained, tmp_path, monkeypatch):
    """All of docs/evaluate.md but what trains, on a run that is here already."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained(), "outputs/used")
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text()
    found = re.findall(r"^python -m runner (evaluate|predict|export) (.*)$", page, re.M)
    assert len(found) == 6
    for name, line in found:
        command = {"evaluate": evaluate, "predict": predict, "export": export}[name]
        assert command(shlex.split(line)) == 0
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert {"predictions.parquet", "my_model", "another_model"} <= {
        path.name for path in tmp_path.iterdir()
    }
