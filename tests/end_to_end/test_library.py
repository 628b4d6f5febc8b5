"""Runs from Python, as a notebook has them."""

import html
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

import runner
from runner import library
from runner.errors import ConfigError, TrainingStopped

TINY = ["debug=tiny", "wandb=disabled", "mesh=single", "framework=jax", "verify=false"]
NAN = ["optimizer=sgd", "optimizer.learning_rate=1e30"]


@pytest.fixture
def tiny(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield [
        *TINY,
        f"data.data_dir={folders['data']}",
        f"compilation_cache={folders['xla']}",
    ]
    root.handlers[:], root.level = handlers, level


def test_what_there_is_is_named():
    assert {"compare_runs", "load_run", "run", "run_sweep"} <= set(dir(runner))
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = runner.train


def test_a_run_is_trained_and_read(tiny, tmp_path, shared_session, capsys):
    saved = runner.run([*tiny, "seed=1"])
    assert saved.folder.parents[1] == tmp_path / "outputs"
    assert saved.config["seed"] == 1 and saved.summary["status"] == "finished"
    assert saved.rows["step"].to_list() == [*range(1, 21)]
    assert saved.rows["validation/loss"].drop_nulls().len() == 2
    last = f"validation/loss {saved.summary['final']['validation/loss']:.4g}"
    assert "finished" in repr(saved) and last in saved._repr_html_()
    images = {"input": np.zeros((2, 8, 8, 1), np.uint8)}
    assert saved.predict(images).shape == (2, 10)
    for wrong, said in (({}, "got none"), ({"x": [0]}, "the column input, and got x")):
        with pytest.raises(ConfigError, match=said):
            saved.predict(wrong)
    with pytest.raises(ConfigError, match=r"a dict of columns, .* and got a list"):
        saved.predict([0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="data must be a list"):
        saved.evaluate(data="data.batch_size=3")
    with pytest.raises(ConfigError, match="folders must be a list"):
        runner.compare_runs(saved.folder)  # pyright: ignore[reportArgumentType]
    again = runner.run([*tiny, "seed=1"], folder=saved.folder)
    assert again.rows.equals(saved.rows)
    assert "has finished already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "folder,asked,chosen",
    [
        (None, "${now:%H-%M-%S}", "${now:%H-%M-%S}-2"),
        (None, "mine", "mine"),
        ("mine", "${now:%H-%M-%S}", "mine"),
    ],
)
def test_runs_of_one_second_have_a_folder_each(
    folder, asked, chosen, tmp_path, monkeypatch
):
    """A loop in a notebook may start them as fast as it likes."""
    monkeypatch.chdir(tmp_path)
    setup_globals()
    when = OmegaConf.create({"dir": asked, "chosen": chosen})
    Path(when.dir).mkdir()
    assert library._place(folder, when, []) == tmp_path / when.chosen


@pytest.mark.parametrize(
    "overrides,said",
    [
        (["optimzer=adam"], "Did you mean 'optimizer'"),
        (["optimizer=admm"], "Did you mean 'adam'"),
        (["train.steps=abc"], r"train\.steps=abc must be a whole number"),
        (["optimizer"], "is not of the form key=value"),
        (["optimizer=adam,sgd"], "is several values: run_sweep runs one job for each"),
        (["optimizer=null"], "optimizer=null must be the name of a file in the group"),
        ("seed=1", r"overrides must be a list, such as \['seed=1'\]"),
        ("seed=1 seed=2", r"overrides must be a list, such as \['seed=1', 'seed=2'\]"),
        ({"seed": 1}, r"overrides must be a list, such as \['seed=1'\]"),
        ([1], "overrides must be a list of text, and has 1"),
        (["-m", "seed=1"], "-m is an option of the command line: run_sweep stands"),
        (["hydra.run.dir=other"], "folder=run and hydra.run.dir=other are both given"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(tiny, tmp_path, overrides, said):
    asked = [*tiny, *overrides] if isinstance(overrides, list) else overrides
    with pytest.raises(ConfigError, match=said):
        runner.run(asked, folder="run")
    assert not list(tmp_path.iterdir())


def test_what_is_the_command_lines_alone_is_refused(tiny, tmp_path):
    """Rather than done in another way."""
    for asked in ("print=model", "cluster=local"):
        with pytest.raises(ConfigError, match="is for the command line"):
            runner.run([*tiny, asked], folder="run")
    with pytest.raises(ConfigError, match="folder= is empty"):
        runner.run(tiny, folder="")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(TrainingStopped, match="file can't be written: File exists"):
        runner.run(tiny, folder="file")


def test_runs_in_threads_are_those_of_one_after_the_other(tiny, shared_session):
    asked = [[*tiny, f"seed={seed}"] for seed in range(3)]
    wanted = [runner.run(a, folder=f"alone/{i}") for i, a in enumerate(asked)]
    with ThreadPoolExecutor(3) as threads:
        folders = [f"threads/{i}" for i in range(3)]
        found = [*threads.map(lambda a, f: runner.run(a, folder=f), asked, folders)]
    for one, other in zip(wanted, found, strict=True):
        speed = "time/steps_per_second"
        assert one.rows.drop(speed, strict=False).equals(
            other.rows.drop(speed, strict=False)
        )


def test_a_loss_that_is_nan_is_raised(tiny, shared_session):
    with pytest.raises(TrainingStopped, match="loss is nan"):
        runner.run([*tiny, *NAN], folder="run")
    assert runner.load_run("run").summary["status"] == "failed"


def test_a_sweep_is_a_table_and_is_compared(tiny, monkeypatch):
    rates = "optimizer.learning_rate=0.1,1e30"
    folder = "it's"  # whose name Hydra has to be told with care
    table = runner.run_sweep([*tiny, "optimizer=sgd", rates, "seed=0,1"], folder=folder)
    assert table["status"].to_list() == ["finished"] * 2 + ["failed"] * 2
    assert table["final.validation/loss"].count() == 2
    found = runner.compare_runs([folder], by="optimizer.learning_rate")
    assert found.analysis.metric == "validation/loss"
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a notebook does
    assert "optimizer.learning_rate" in str(found) and "\x1b" not in str(found)
    assert "final" in found.figures
    shown = found._repr_html_()
    assert "data:image/png;base64,iVBOR" in shown and html.escape(str(found)) in shown
    with pytest.raises(ConfigError, match="Did you mean 'adam'"):
        runner.run_sweep([*tiny, "optimizer=admm,sgd"])
