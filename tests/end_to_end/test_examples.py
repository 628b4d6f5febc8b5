"""The folders in examples/: the commands of their READMEs do what they say."""

import csv
import json
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import runner
from helpers.documented import SHORT, arguments, blocks, in_process, is_runner, lines
from helpers.training import SESSION
from runner import library

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def commands(example: str) -> list[str]:
    page = (EXAMPLES / example / "README.md").read_text()
    return [line for kind, text in blocks(page) if kind == "sh" for line in lines(text)]


def shortened(overrides: list[str]) -> list[str]:
    return [*overrides, *SHORT, "train.steps=4", "mesh=single"]


@pytest.fixture
def inside(tmp_path, monkeypatch, own_modules, folders):
    """Copy an example and go there, to train what is short."""

    def inside(example: str) -> list[str]:
        shutil.copytree(EXAMPLES / example, tmp_path / example)
        monkeypatch.chdir(tmp_path / example)
        own_modules(tmp_path / example)
        return commands(example)

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
    for example in EXAMPLES.iterdir():
        assert any(is_runner(line) for line in commands(example.name))


def test_own_training(inside):
    """Every part of it is a user's own."""
    train, shown, sweep, compared = inside("own_training")
    assert "print=model" in shown  # see job/test_model_table.py
    in_process(arguments(train), lambda o: [*shortened(o), "hydra.run.dir=run"])
    saved = runner.load_run("run", trust=True)
    assert saved.rows["validation/close"].drop_nulls().len() == 2
    for key in ("data.train", "model", "task", "optimizer", "schedule"):
        node = saved.config
        for part in key.split("."):
            node = node[part]
        assert node["_target_"].startswith("waves."), key
    in_process(arguments(sweep), shortened)
    in_process(arguments(compared), shortened)


def test_a_figure_for_a_paper(inside, monkeypatch):
    sweep, compared, figure = inside("paper_figure")
    few = {"seed": "0,1", "optimizer.learning_rate": "0.001,0.01"}
    fewer = [f"{key}={values}" for key, values in few.items()]
    in_process(arguments(sweep), lambda o: [*shortened(o), *fewer])
    in_process(arguments(compared), shortened)
    _, *argv = shlex.split(figure)
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(argv[0], run_name="__main__")
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF")
    rows = [*csv.DictReader(Path("numbers.csv").open())]
    assert len(rows) == 3 * 2 and all(row["runs"] == "2" for row in rows)


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
    page = (ROOT / "docs" / "notebook.md").read_text()
    assert [text for kind, text in blocks(page) if kind == "python"] == [
        f"{text}\n" for text in code
    ]
    assert all(cell["outputs"] for cell in cells[3:] if cell["cell_type"] == "code")
