"""`init_from`: what is taken from a file, what isn't, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.at_night import each_in_one
from runner.errors import ConfigError
from runner.record.files import STATE, read_object
from runner.saved.model import file_arrays

FRAMEWORKS = ("jax", "linen", "nnx")
SMALL = ("train.steps=4", "train.epochs=null", "model.hidden_sizes=[8]",
         "optimizer.learning_rate=1e-30", "framework=jax")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder that a run might leave: its state alone."""
    folder = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    shapes = {
        "params/dense_0/kernel": (64, 8), "params/dense_0/bias": (8,),
        "params/output/kernel": (8, 10), "params/output/bias": (10,),
    }  # fmt: skip
    arrays = {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
    save_file(arrays, folder / STATE)
    return folder, arrays


def started(run):
    from helpers.training import SESSION

    program = SESSION.program(run.spec, run.values, run.timetable)
    return program.init.result()(*run.init_arguments)


@pytest.mark.parametrize(
    ("framework", "optimizer"), each_in_one(FRAMEWORKS, ["adam", "schedule_free_sgd"])
)
def test_a_run_starts_from_the_file(framework, optimizer, built, finished):
    folder, arrays = finished
    given = (*SMALL[:-1], f"framework={framework}", f"optimizer={optimizer}")
    run = built(*given, f"init_from={folder}", "train.ema_decay=0.9")
    carry = started(run)
    for tree in (carry.state.params, carry.average):
        for path, value in arrays.items():
            _, layer, name = path.split("/")
            np.testing.assert_array_equal(tree[layer][name], value)
    if optimizer == "schedule_free_sgd":  # whose own iterate starts there too
        states = [np.asarray(x) for x in __import__("jax").tree.leaves(carry.state)]
        kernels = [x for x in states if x.shape == (64, 8)]
        assert len(kernels) == 2
        np.testing.assert_array_equal(*kernels)


def test_what_is_excluded_or_of_another_shape_is_the_models_own(built, finished):
    folder, arrays = finished
    wider = (*SMALL[:2], "model.hidden_sizes=[8,4]", "framework=jax")
    run = built(*wider, f"init_from={folder}", "init_exclude=[bias]")
    own = started(built(*wider)).state.params
    params = started(run).state.params
    np.testing.assert_array_equal(params["dense_0"]["kernel"],
                                  arrays["params/dense_0/kernel"])  # fmt: skip
    for layer, name in (
        ("dense_1", "kernel"),
        ("output", "kernel"),
        ("dense_0", "bias"),
    ):
        np.testing.assert_array_equal(params[layer][name], own[layer][name])


def test_arrays_are_taken_under_other_names(built, finished, tmp_path):
    _, arrays = finished
    other = {f"model.{k.replace('dense_0', 'encoder')}": v for k, v in arrays.items()}
    save_file(other, tmp_path / "other.safetensors")
    given = (*SMALL, f"init_from={tmp_path / 'other.safetensors'}")
    names = r"init_rename=[['^model\.',''],['enc(oder)','dense_0']]"
    params = started(built(*given, names)).state.params
    for layer, name in (("dense_0", "kernel"), ("output", "bias")):
        own = arrays[f"params/{layer}/{name}"]
        np.testing.assert_array_equal(params[layer][name], own)
    for wrong, said in (
        ("[[decoder,x]]", "'decoder' matches none of model.params/"),
        ("[[kernel,bias]]", "would all be model.params/"),
        (r"[[enc,'\2']]", "can't replace 'enc': invalid group reference"),
        ("[[enc]]", "must be a list of pairs"),
        ("[enc]", "must be a list of pairs"),
        ("[['(',x]]", "must be a list of pairs"),
    ):
        with pytest.raises(ConfigError, match=said):
            built(*given, f"init_rename={wrong}")


def test_runs_from_different_files_share_a_program(built, finished, tmp_path):
    folder, arrays = finished
    save_file({k: 2 * v for k, v in arrays.items()}, tmp_path / "other.safetensors")
    del arrays["params/output/bias"]
    save_file(arrays, tmp_path / "fewer.safetensors")
    files = (folder, tmp_path / "other.safetensors", tmp_path / "fewer.safetensors")
    runs = [built(*SMALL, f"init_from={file}") for file in files]
    assert len({run.spec.key for run in runs}) == 1
    assert runs[0].spec.key != built(*SMALL).spec.key


def test_the_record_says_what_was_taken(ran, tmp_path, finished, capsys):
    folder, _ = finished
    given = ("~model.hidden_sizes", "model.hidden_sizes=[8,4]", f"init_from={folder}",
             "init_exclude=[dense_0/bias]", "verify=true")  # fmt: skip
    rows = ran(tmp_path / "run", *given)
    assert rows
    facts = read_object(tmp_path / "run" / "provenance.json")["init_from"]
    assert facts["path"] == str(folder / STATE) and len(facts["sha256"]) == 64
    assert facts["taken"] == 2
    assert facts["excluded"] == ["params/dense_0/bias"]
    assert len(facts["not in the file"]) == 2
    (other,) = facts["of another shape or type"]
    assert other.startswith("params/output/kernel [4, 10] (in the file float32[8, 10])")
    seen = read_object(tmp_path / "run" / "summary.json")["witnesses"]
    assert seen and all("parameters" in one["checked"] for one in seen)
    # Its own state can be taken again, all of it.
    again = ran(tmp_path / "again", "~model.hidden_sizes", "model.hidden_sizes=[8,4]",
                f"init_from={tmp_path / 'run'}")  # fmt: skip
    assert again
    facts = read_object(tmp_path / "again" / "provenance.json")["init_from"]
    assert set(facts) == {"path", "sha256", "taken"}
    assert set(file_arrays(tmp_path / "run")) == set(file_arrays(tmp_path / "again"))
    shutil.copy(tmp_path / "run" / STATE, tmp_path / "again")
    with pytest.raises(ConfigError, match="isn't the state that the run ended with"):
        ran(tmp_path / "third", f"init_from={tmp_path / 'again'}")


def damaged(finished, tmp_path, how):
    folder, arrays = finished
    file = tmp_path / "bad.safetensors"
    data = bytearray((folder / STATE).read_bytes())
    if how == "checksum":
        save_file(arrays, file, {"sha256": "0" * 64})
        return file
    if how == "pickle":
        data = bytearray(b"\x80\x04\x95cos\nsystem\n(S'false'\ntR.")
    elif how == "cut":
        data = data[:-8]
    elif how == "header":
        data[:8] = (2**62).to_bytes(8, "little")
    elif how == "empty":
        data = bytearray()
    elif how == "nothing":
        save_file({"other": np.zeros(3, np.float32)}, file)
        return file
    elif how == "integers":
        save_file({k: v.astype(np.int32) for k, v in arrays.items()}, file)
        return file
    elif how == "pipe":
        __import__("os").mkfifo(file)
        return file
    elif how == "folder":
        return tmp_path
    elif how == "absent":
        return tmp_path / "nowhere"
    file.write_bytes(data)
    return file


REFUSED = {
    "checksum": "doesn't have its recorded checksum",
    "pickle": "is damaged",
    "cut": "is damaged",
    "header": "is damaged",
    "empty": "is damaged",
    "nothing": "nothing that this model could start from.*without a partner: other",
    "integers": r"of another shape or type: .*in the file int32\[",
    "pipe": "is not a regular file",
    "folder": "a run folder gets that file when the run has finished",
    "absent": "can't be read",
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_taken_is_refused(how, built, finished, tmp_path):
    with pytest.raises(ConfigError, match=f"init_from=.*{REFUSED[how]}"):
        built(*SMALL, f"init_from={damaged(finished, tmp_path, how)}")


@pytest.mark.parametrize("key", ["init_exclude=[bias]", "init_rename=[[a,b]]"])
def test_patterns_without_a_file_are_refused(key, built):
    with pytest.raises(ConfigError, match=f"{key[:10]}.* needs init_from"):
        built(*SMALL, key)


def test_a_pattern_that_excludes_nothing_is_refused(built, finished):
    with pytest.raises(ConfigError, match="init_exclude: 'hed' matches none of dense"):
        built(*SMALL, f"init_from={finished[0]}", "init_exclude=[hed]")


def test_a_replay_needs_the_same_file(ran, tmp_path, finished):
    from runner.replay.again import Limits, replay

    _, arrays = finished
    file = tmp_path / "start.safetensors"
    save_file(arrays, file)
    assert ran(tmp_path / "run", f"init_from={file}", "~model.hidden_sizes",
               "model.hidden_sizes=[8]")  # fmt: skip
    limits = Limits(1e-6, contradiction=True)
    assert "equal bit for bit" in replay(tmp_path / "run", limits)
    save_file({k: v + 1 for k, v in arrays.items()}, file)
    with pytest.raises(ConfigError, match="isn't the file that the run started from"):
        replay(tmp_path / "run", limits)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"]
