"""Compiled programs on disk: found again, but none that is old, damaged or planted."""

import importlib
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.at_night import one_in
from helpers.command_line import run, sweep
from runner.core.run import Host
from runner.core.train import train
from runner.errors import ConfigError
from runner.job.build import build
from runner.job.session import Session
from runner.record import compiled
from runner.record.compiled import CheckedCache
from runner.record.files import read_metrics


@pytest.fixture
def cache(tmp_path):
    """An empty folder of compiled programs, in use."""
    before = jax.config.jax_compilation_cache_dir
    compiled.set_up(str(tmp_path / "cache"))
    yield tmp_path / "cache"
    compiled.set_up(before)


@pytest.fixture
def found(monkeypatch) -> list[bool]:
    """Whether each program that was looked for since was there."""
    found: list[bool] = []
    get = CheckedCache.get

    def counted(self, key):
        value = get(self, key)
        found.append(value is not None)
        return value

    monkeypatch.setattr(CheckedCache, "get", counted)
    return found


def tripled(x=2.0) -> float:
    """Of a function that is traced and compiled, or loaded, each time."""

    def triple(x):
        return 3 * x + 1.25

    return float(jax.jit(triple)(np.float32(x)))


def entry(cache: Path) -> Path:
    """The file of `tripled`; an earlier test may still compile something else."""
    before = set(cache.iterdir())
    jax.clear_caches()
    assert tripled() == 7.25
    (file,) = set(cache.glob("jit_triple-*")) - before
    return file


def test_the_folder_is_made_for_us_alone(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("HOME", str(tmp_path))
    compiled.set_up("~/a/b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    compiled.set_up(None)
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_is_refused(tmp_path, cache):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(ConfigError, match=f"compilation_cache={folder} .* or null"):
            compiled.set_up(str(folder))


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch, cache):
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda path, mode: False)  # root may write all
        with pytest.raises(ConfigError, match="can't be written; null turns it off"):
            compiled.set_up(str(tmp_path))


@pytest.mark.parametrize("mode", one_in(3, [0o770, 0o707, 0o777]))
def test_a_folder_that_others_can_write_to_isnt_used(cache, mode, capsys):
    entry(cache)
    cache.chmod(mode)
    compiled.set_up(str(cache))
    assert f"(chmod go-w {cache} changes that)" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None
    cache.chmod(0o755)  # that they can read it does no harm
    compiled.set_up(str(cache))
    assert jax.config.jax_compilation_cache_dir == str(cache)


def test_a_folder_of_another_user_isnt_used(cache, monkeypatch, capsys):
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    compiled.set_up(str(cache))
    assert "it belongs to another user" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None


def test_what_was_compiled_is_found(cache, found):
    entry(cache)
    jax.clear_caches()
    assert tripled() == 7.25
    assert found == [False, True]


def test_one_flipped_byte_is_noticed_and_mended(cache, found):
    file = entry(cache)
    whole = file.read_bytes()
    for at in [*range(0, len(whole), max(len(whole) // 40, 1)), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        file.write_bytes(bytes(damaged))
        found.clear()
        jax.clear_caches()
        assert tripled() == 7.25
        assert found == [False], f"byte {at} of {len(whole)}"
        assert CheckedCache(cache).get(_key(file)) is not None  # it was mended


@pytest.mark.parametrize("size", [0, 10, 32, 33, 200])
def test_a_torn_file_is_a_miss(cache, found, size):
    file = entry(cache)
    file.write_bytes(file.read_bytes()[:size])
    jax.clear_caches()
    assert tripled() == 7.25 and found == [False, False]


def test_the_entry_of_another_program_is_a_miss(cache, found):
    file = entry(cache)
    jax.clear_caches()
    float(jax.jit(lambda x: x - 100)(np.float32(1)))
    (other,) = set(cache.iterdir()) - {file}
    shutil.copy(other, file)
    found.clear()
    jax.clear_caches()
    assert tripled() == 7.25 and found == [False]


class Planted:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("planted",))


def test_what_is_planted_there_is_never_executed(cache, tmp_path, monkeypatch, found):
    """A pickle as it is, and one with a right checksum, by who can write there."""
    monkeypatch.chdir(tmp_path)
    file, bomb = entry(cache), pickle.dumps(Planted())
    file.write_bytes(bomb)
    jax.clear_caches()
    assert tripled() == 7.25 and found == [False, False]
    CheckedCache(cache).put(_key(file), bomb)
    jax.clear_caches()
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        assert tripled() == 7.25
    assert not (tmp_path / "planted").exists()


def _key(file: Path) -> str:
    return file.name.rpartition("-")[0]


def test_a_full_disk_stops_nothing(cache, monkeypatch, capsys):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled, "write_bytes", full)
    jax.clear_caches()
    assert tripled() == 7.25
    assert "a compiled program isn't saved" in capsys.readouterr().err


def test_a_nan_is_still_found(cache):
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.jit(jnp.log)(np.float32(-1))


# Roads by which an old program could come back: what a target reads while it is traced.
MODEL = """
import json, os
from pathlib import Path
from runner.models.mlp import mlp
{first}

def model(*, inputs, output):
    width = {width}
    return mlp(inputs=inputs, output=output, dtype="float32", hidden_sizes=[8],
               activation="relu" if width == 1 else "tanh", dropout=0.0)
"""
EXECUTED = "scope = {}; exec(Path('layer.txt').read_text(), scope)"
ROADS = {
    "a file that is executed": (EXECUTED, "scope['width']"),
    "a file of JSON": ("", "json.loads(Path('layer.json').read_text())"),
    "an environment variable": ("", "int(os.environ['LAYER'])"),
    "a module of the same size and time": ("import its_layer", "its_layer.width"),
}


@pytest.mark.parametrize("road", one_in(3, list(ROADS)))
def test_an_old_program_doesnt_come_back(
    road, cache, composed, tmp_path, monkeypatch, found
):
    first, width = ROADS[road]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    name = f"its_model_{list(ROADS).index(road)}"
    (tmp_path / f"{name}.py").write_text(MODEL.format(first=first, width=width))

    def write(width: int) -> None:
        (tmp_path / "layer.txt").write_text(f"width = {width}")
        (tmp_path / "layer.json").write_text(json.dumps(width))
        (tmp_path / "its_layer.py").write_text(f"width = {width}\n")
        os.utime(tmp_path / "its_layer.py", (1, 1))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        monkeypatch.setenv("LAYER", str(width))

    def losses() -> list[float]:
        """As a process of its own has them: nothing is left of the one before."""
        jax.clear_caches()
        for module in (name, "its_layer"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        session, rows = Session(), []
        cfg = composed(
            f"model._target_={name}.model", "~model.hidden_sizes",
            "~model.activation", "~model.dropout", "framework=jax",
            "train.epochs=null", "train.steps=3",
        )  # fmt: skip
        run = build(cfg, session).run
        program = session.program(run.spec, run.values, run.timetable)
        host = Host(lambda index, row: rows.append(row["train/loss"]))
        assert not list(train(program, [run], host))
        return rows

    write(1)
    old = losses()
    found.clear()
    assert losses() == old and all(found)
    write(2)
    new = losses()
    assert new != old and not all(found)
    write(1)
    assert losses() == old


PIPELINE = """
from runner.frameworks import jax as ours


def pipeline(model, task, optimizer):
    made = ours.pipeline(model, task, optimizer)

    def apply_gradients(state, grads, loss, rate, *others):
        return made.apply_gradients(state, grads, loss, FACTOR * rate, *others)

    return made._replace(apply_gradients=apply_gradients)
"""


def test_the_next_process_compiles_nothing_and_verifies_all(tmp_path, folders):
    module = tmp_path / "users_pipeline.py"
    module.write_text(PIPELINE + "\n\nFACTOR = 1\n")
    os.utime(module, (1, 1))

    def again():
        return run(
            tmp_path, "debug=tiny", "framework._target_=users_pipeline.pipeline",
            f"compilation_cache={tmp_path / 'cache'}",
            f"data.data_dir={folders['data']}",
        )  # fmt: skip

    rows, kept = [], []
    for name in ("first", "second"):
        done = again()
        assert done.returncode == 0, done.stderr
        rows.append(read_metrics(tmp_path / "run" / "metrics.jsonl"))
        for row in rows[-1]:
            del row["time/steps_per_second"]
        kept.append(sorted(path.name for path in (tmp_path / "cache").iterdir()))
        (tmp_path / "run").rename(tmp_path / name)
    assert rows[0] == rows[1] and kept[0] == kept[1]
    module.write_text(PIPELINE + "\n\nFACTOR = 2\n")  # the same size and time
    os.utime(module, (1, 1))
    done = again()
    assert done.returncode == 1
    assert "verify: the pipeline doesn't do what the config says" in done.stderr


@pytest.mark.nightly  # nor does the next process, below which sweeps stand
def test_the_next_sweep_compiles_nothing(tmp_path, folders):
    common = (
        "debug=tiny", f"compilation_cache={tmp_path / 'cache'}",
        f"data.data_dir={folders['data']}",
    )  # fmt: skip
    kept: list[set[str]] = []
    for seeds in ("seed=0,1", "seed=2,3"):
        done = sweep(tmp_path, *common, seeds)
        assert done.returncode == 0, done.stderr
        kept.append({path.name for path in (tmp_path / "cache").iterdir()})
    assert kept[0] == kept[1]


def test_without_a_home_nothing_is_kept_and_that_is_said(monkeypatch, capsys):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr("pathlib.Path.expanduser", unknown)
    compiled.set_up("~/.cache/xla")
    assert "no home folder: set HOME or XDG_CACHE_HOME" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.undo()
    compiled.set_up(before)
