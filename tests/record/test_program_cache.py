"""What an earlier process has compiled is used while it is what would be compiled."""

import importlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.command_line import run, sweep
from runner.record import compilation_cache, program_cache
from runner.record.files import read_metrics
from runner.record.program_cache import Entry

FOLDER = program_cache._folder  # as it is without conftest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(program_cache, "_folder", FOLDER)
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.set_up(str(tmp_path / "cache"))
    yield tmp_path / "cache" / "programs"
    compilation_cache.set_up(before)


@jax.jit
def doubled(tree):
    return {"double": 2 * tree["x"]}


X = {"x": np.arange(3, dtype=np.float32)}


def found(key: str = "key") -> Entry:
    return Entry(key, jax.devices()[:1])


def stored() -> Entry:
    entry = found()
    entry.facts["answer"] = 42
    entry.function("doubled", doubled, X)
    entry.store()
    return entry


def test_what_is_stored_is_found(cache):
    assert stored().is_new
    entry = found()
    assert not entry.is_new
    assert entry.facts == {"answer": 42}
    np.testing.assert_array_equal(entry.found("doubled")(X)["double"], [0, 2, 4])
    assert found("another").is_new


def test_a_changed_module_makes_it_new_but_compiles_nothing(
    cache, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "users_layer.py"
    file.write_text("SIZE = 1\n")
    importlib.import_module("users_layer")
    stored()
    assert not found().is_new
    file.write_text("SIZE = 2\n")
    os.utime(file, (1, 1))  # the same size within one tick of the clock is possible
    changed = found()
    assert changed.is_new
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    changed.function("doubled", doubled, X)  # its text is the same


def test_a_module_of_that_name_from_elsewhere_makes_it_new(
    cache, tmp_path, monkeypatch
):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "users_own.py").touch()
    monkeypatch.syspath_prepend(here)
    importlib.import_module("users_own")
    stored()
    monkeypatch.delitem(sys.modules, "users_own")
    assert not found().is_new
    monkeypatch.syspath_prepend(there)
    assert found().is_new


def test_other_surroundings_make_it_new(cache, monkeypatch):
    stored()
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --other")
    assert found().is_new
    monkeypatch.undo()
    monkeypatch.setattr(program_cache, "_folder", FOLDER)
    assert not found().is_new
    with jax.default_matmul_precision("highest"):
        assert found().is_new


def test_a_damaged_file_is_as_good_as_none(cache):
    stored()
    for file in cache.iterdir():
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        entry = found()
        assert entry.is_new
        double = entry.function("doubled", doubled, X)
        np.testing.assert_array_equal(double(X)["double"], [0, 2, 4])
        file.write_bytes(whole)
    assert not found().is_new


def test_a_folder_that_is_not_there_any_more_stops_nothing(cache):
    (cache.parent / "programs").touch()  # so no folder of that name can be made
    double = stored().function("doubled", doubled, X)
    np.testing.assert_array_equal(double(X)["double"], [0, 2, 4])


def test_null_keeps_nothing(cache):
    compilation_cache.set_up(None)
    stored()
    assert found().is_new
    assert not cache.exists()


def test_a_nan_is_still_found(cache):
    jax.config.update("jax_debug_nans", True)
    try:
        log = stored().function("log", jax.jit(jnp.log), np.float32(-1))
        with pytest.raises(FloatingPointError):
            log(np.float32(-1))
    finally:
        jax.config.update("jax_debug_nans", False)
    assert found().is_new


PIPELINE = """
from runner.frameworks import jax as ours


def pipeline(model, loss, optimizer):
    made = ours.pipeline(model, loss, optimizer)

    def apply_gradients(state, grads, loss, rate, *others):
        print("traced")
        return made.apply_gradients(state, grads, loss, FACTOR * rate, *others)

    return made._replace(apply_gradients=apply_gradients)
"""


def test_the_next_process_trains_the_same_and_verifies_what_changed(tmp_path, folders):
    module = tmp_path / "users_pipeline.py"
    module.write_text(PIPELINE + "\n\nFACTOR = 1\n")

    def again():
        done = run(
            tmp_path, "debug=tiny", "framework._target_=users_pipeline.pipeline",
            f"compilation_cache={tmp_path}", f"data.data_dir={folders['data']}",
        )  # fmt: skip
        return done, tmp_path / "run"

    found = []
    for traced in (True, False):
        done, folder = again()
        assert done.returncode == 0, done.stderr
        assert ("traced" in done.stdout) == traced
        rows = read_metrics(folder / "metrics.jsonl")
        for row in rows:
            del row["time/steps_per_second"]
        found.append(rows)
        folder.rename(tmp_path / f"traced_{traced}")
    assert found[0] == found[1]
    module.write_text(PIPELINE + "\n\nFACTOR = 10\n")
    done, _ = again()
    assert done.returncode == 1
    assert "verify: the pipeline doesn't do what the config says" in done.stderr


def test_the_next_sweep_compiles_nothing_and_a_run_goes_on_from_its_checks(
    tmp_path, folders
):
    common = (
        "debug=tiny", f"compilation_cache={tmp_path}",
        f"data.data_dir={folders['data']}",
    )  # fmt: skip
    kept: list[set[str]] = []
    for seeds in ("seed=0,1", "seed=2,3"):
        done = sweep(tmp_path, *common, seeds)
        assert done.returncode == 0, done.stderr
        kept.append({path.name for path in (tmp_path / "programs").iterdir()})
    assert kept[0] == kept[1]
    assert run(tmp_path, *common, "seed=0").returncode == 0  # nnx: its trees fit
    assert len(kept[1]) < len(list((tmp_path / "programs").iterdir()))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    packed = read_metrics(tmp_path / "sweep" / "seed=0" / "metrics.jsonl")
    for row, other in zip(rows, packed, strict=True):
        assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
