"""The folders in examples/: the commands of their READMEs do what they say."""

import json
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest

import runner
from helpers.composing import compose_command
from helpers.documented import SHORT, arguments, in_process, is_runner
from helpers.pages import ROOT, blocks, commands
from helpers.training import SESSION
from runner import library


def shortened(overrides: list[str]) -> list[str]:
    return [*overrides, *SHORT, "train.steps=4"]


@pytest.fixture
def inside(tmp_path, monkeypatch, own_modules, folders):
    """Copy an example and go there, to train what is short."""

    def inside(example: str) -> list[str]:
        shutil.copytree(ROOT / "examples" / example, tmp_path / example)
        monkeypatch.chdir(tmp_path / example)
        own_modules(tmp_path / example)
        return commands(f"examples/{example}")

    for module in ("job.run", "job.session"):
        monkeypatch.setattr(f"runner.{module}.Session", lambda *_, **__: SESSION)
    for name in ("run", "run_sweep"):
        plain = getattr(library, name)
        monkeypatch.setattr(
            runner, name, lambda o, plain=plain, **k: plain(shortened(o), **k), False
        )
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders["xla"].parent / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(folders["data"]))
    return inside


def test_each_example_says_how_it_is_run():
    for example in (ROOT / "examples").iterdir():
        assert any(is_runner(line) for line in commands(f"examples/{example.name}"))


def test_own_training(inside, monkeypatch):
    """Every part of it is a user's own."""
    train, shown, sweep, _ = inside("own_training")
    assert "print=model" in shown  # see job/test_model_table.py
    in_process(arguments(train), lambda o: [*shortened(o), "hydra.run.dir=run"])
    saved = runner.load_run("run", trust=True)
    assert saved.rows["validation/close"].drop_nulls().len() == 2
    for key in ("data.train", "model", "task", "optimizer", "schedule"):
        node = saved.config
        for part in key.split("."):
            node = node[part]
        assert node["_target_"].startswith("waves."), key
    assert compose_command(sweep, monkeypatch)


@pytest.mark.nightly  # by day a figure's sweep is compared, and the notebook's
def test_own_training_is_swept_and_compared(inside):
    _, _, sweep, compared = inside("own_training")
    in_process(arguments(sweep), shortened)
    in_process(arguments(compared), shortened)


def test_a_figure_for_a_paper(inside, monkeypatch):
    sweep, compared, figure = inside("paper_figure")
    fewer = ["optimizer=sgd,adam", "optimizer.learning_rate=0.001,0.01", "seed=0,1"]
    in_process(arguments(sweep), lambda o: [*shortened(o), *fewer])
    in_process(arguments(compared), shortened)
    _, *argv = shlex.split(figure)
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(argv[0], run_name="__main__")
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF")
    numbers = pl.read_csv("numbers.csv")
    assert numbers["runs"].to_list() == [2] * 4


def test_the_notebook(inside, tmp_path, monkeypatch):
    """Its cells run, and its page shows what it shows."""
    monkeypatch.chdir(tmp_path)
    notebook = ROOT / "docs" / "notebook.ipynb"
    assert notebook.stat().st_size < 200_000
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    for text in code:
        exec(compile(text, "notebook", "exec"), names)
    assert names["table"].height == 6 and "final" in names["found"].figures
    assert [text for kind, text in blocks("notebook") if kind == "python"] == [
        f"{text}\n" for text in code
    ]
    assert all(cell["outputs"] for cell in cells[3:] if cell["cell_type"] == "code")
