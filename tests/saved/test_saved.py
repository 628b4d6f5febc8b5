"""What all commands on a saved run have in common: evaluate, predict and export."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from helpers.saved_runs import edit
from runner import load_run
from runner.errors import ConfigError
from runner.evaluate.__main__ import main as evaluate
from runner.export.__main__ import main as export
from runner.predict.__main__ import main as predict
from runner.saved import saved_run

FIRST_EDITION = Path(__file__).parents[1] / "fixtures" / "first_edition" / "single"


def test_folders_above_what_is_written_are_made(trained, tmp_path):
    given = [str(trained()), "--out"]
    assert predict([*given, str(tmp_path / "some" / "tables" / "rows.csv")]) == 0
    assert export([*given, str(tmp_path / "some" / "models" / "mine")]) == 0
    assert len(list(tmp_path.rglob("*.csv"))) == 1


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
