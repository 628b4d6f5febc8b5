"""An exported model: what it is, and what starts from it."""

import json

import numpy as np
import pytest

from helpers.saved_runs import RUNS, WITH_STATISTICS, edit, some_at_night, summary
from helpers.training import SESSION
from runner import load_run
from runner.errors import ConfigError
from runner.export.__main__ import main as export
from runner.record.format import run_folders
from runner.saved.model import file_arrays


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
