"""The parts of examples/my_lab do everything that the shipped ones do."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from helpers.packed import alone, assert_close, together
from helpers.resuming import arrays_of, rows_of
from runner import load_run
from runner.config import conf
from runner.job import restore
from runner.parity.__main__ import main as parity
from runner.replay.again import Limits, replay
from runner.sweep.compose import Composer

EXAMPLES = Path(__file__).parents[2] / "examples"
LENGTH = ("train.steps=20", "train.epochs=null")
EVERY_ROW = ("train.log_every_steps=1", "train.eval_every_steps=5")
PARTS = {
    "text": (
        "data=counting", "data.length=8", "task.mask=counts", "model=transformer",
        "model.width=16", "model.heads=2", "model.layers=1", "model.tied=false",
        "optimizer.learning_rate=0.03",
    ),
    "vae": (
        "data=noisy_digits", "model=vae", "objective=validation/squared_error",
        "optimizer.learning_rate=0.01",
    ),
    "two inputs": (
        "data=numpy_file", "data.path=table.npz", "model=both", "task.inputs=[a,b]",
        "task.target=y", "optimizer.learning_rate=0.03",
        "+metric@metrics.within=within", "objective=validation/within",
    ),
}  # fmt: skip
FORMS = {
    "text": ["nnx", "linen", "jax"],
    "vae": ["nnx"],
    "two inputs": ["nnx", "linen", "jax"],
}


def others_at_night(name):
    """The part `name` in the plain suite, the others at night."""
    marks = {part: [] if part == name else pytest.mark.nightly for part in PARTS}
    params = [pytest.param(part, marks=mark) for part, mark in marks.items()]
    return pytest.mark.parametrize("name", params)


@pytest.fixture(scope="module")
def composer():
    """Like that of all tests, and finds the parts."""
    conf.register()
    GlobalHydra.instance().clear()
    path = f"hydra.searchpath=['file://{EXAMPLES}/my_lab/conf']"
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = Composer(loader, compose("config", [path], return_hydra_config=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield found


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 320, 3))
    np.savez(tmp_path / "table.npz", a=a, b=b, y=a[:, 0] - b[:, 1])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rows(trained):
    """The rows of a part, in the form that is traced soonest unless told otherwise."""
    return lambda name, *more: trained(
        *PARTS[name], *LENGTH, *EVERY_ROW, f"framework={FORMS[name][-1]}", *more
    )


@others_at_night("two inputs")
def test_each_form_is_verified_and_learns_the_same(name, rows):
    first, *others = (
        rows(name, f"framework={form}", "verify=true") for form in FORMS[name]
    )
    assert first[-1]["train/loss"] < 0.9 * first[0]["train/loss"]
    for other in others:
        assert_close(other, first)


@others_at_night("text")
@pytest.mark.parametrize(
    "mesh", ["fsdp", pytest.param("data", marks=pytest.mark.nightly)]
)
def test_eight_devices_learn_the_same(name, mesh, rows):
    spread = rows(name, f"mesh={mesh}", "mesh.min_shard_elements=64")
    assert_close(spread, rows(name), 1e-5)


@pytest.mark.nightly  # by day tests/tasks cuts batches of masked tokens
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("mesh", ["data", "single"])
def test_microbatches_weigh_as_in_one_batch(name, mesh, rows):
    parts = rows(name, "train.gradient_accumulation=4", f"mesh={mesh}")
    whole = rows(name)
    assert parts[0]["train/loss"] == pytest.approx(whole[0]["train/loss"], rel=1e-6)
    assert_close(parts, whole, 1e-5)


@others_at_night("vae")
def test_packed_equals_plain(name, built):
    asked = *PARTS[name], *LENGTH, *EVERY_ROW
    runs = [built(*asked, f"seed={seed}") for seed in (0, 1)]
    packed, errors = together(runs)
    assert not errors
    for run, own in zip(runs, packed, strict=True):
        assert_close(own, alone(run))


@others_at_night("two inputs")
def test_resumed_and_replayed_bit_for_bit_with_its_best_kept(name, ran, tmp_path):
    asked = (
        "~model.hidden_sizes", *PARTS[name], f"framework={FORMS[name][-1]}",
        "train.steps=20", "train.eval_every_steps=5", "checkpoint.every_steps=4",
        "checkpoint.keep=1", "checkpoint.best=true",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rows = ran(whole, *asked)
    ran(killed, *asked, stop=13)
    assert ran(killed, *asked) == rows
    assert arrays_of(killed, 20) == arrays_of(whole, 20)
    limits = Limits(0.0, contradiction=True, trust=True)
    assert "equal bit for bit" in replay(whole, limits)
    objective = load_run(whole).config["objective"]
    best = max if objective == "validation/within" else min
    found = {row["step"]: row[objective] for row in rows if objective in row}
    assert best(found, key=found.__getitem__) in restore.steps(whole / "checkpoints")


def test_a_metric_of_several_parts_and_one_without_a_direction(rows):
    last = rows("text", "+metric@metrics.each=per_class_accuracy")[-1]
    assert {f"validation/each/{i}" for i in range(11)} <= set(last)
    assert {"validation/squared_error", "validation/divergence"} <= set(rows("vae")[-1])


@pytest.mark.nightly  # tests/parity compares the forms of a user's own model
def test_parity_finds_the_parts_and_compares_the_forms_there_are(capsys, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)

    def compared(name):
        GlobalHydra.instance().clear()
        config_dir = f"--config-dir={EXAMPLES}/my_lab/conf"
        with pytest.raises(SystemExit) as ended:
            parity([config_dir, "--steps=5", *PARTS[name], "compilation_cache=null"])
        return ended.value.code, capsys.readouterr().out

    status, said = compared("two inputs")
    assert status == 0 and "linen and jax" in said and "nnx and jax" in said
    status, _ = compared("vae")
    assert "has one form, nnx" in str(status)


def command(*arguments, module="runner"):
    """A command, started from the folder in which `my_lab` is."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=EXAMPLES, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def said(process, status=0):
    out, _ = process.communicate()
    assert process.returncode == status, out
    return out


@pytest.fixture
def common(folders):
    cache = f"compilation_cache={folders['xla']}"
    return "--config-dir", "my_lab/conf", *PARTS["text"], "wandb=disabled", cache


@pytest.mark.nightly  # replay/test_record.py finds a user's own conf again
def test_packed_replayed_and_loaded(tmp_path, common):
    sweep = tmp_path / "sweep"
    process = command("-m", *common, *LENGTH, "seed=0,1", f"hydra.sweep.dir={sweep}")
    assert "sweep 2/2 done" in said(process)
    one = sweep / "seed=0"
    again = (str(one), "--allow-rounding", *common[:2])
    assert "logged rows" in said(command(*again, module="runner.replay"))
    saved = load_run(one)
    assert saved.parameters["output/kernel"].shape == (16, 11)
    assert saved.summary["status"] == "finished"


@pytest.mark.nightly
def test_killed_and_resumed_by_the_same_command(tmp_path, common):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = (
        *common, "mesh=single", "train.epochs=null", "train.steps=800", EVERY_ROW[0],
        "checkpoint.every_steps=50", "checkpoint.last=true",
    )  # fmt: skip
    said(command(*asked, f"hydra.run.dir={whole}"))
    process = command(*asked, f"hydra.run.dir={killed}")
    while not restore.steps(killed / "checkpoints"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    said(process, -signal.SIGKILL)
    assert 0 < len(rows_of(killed)) < 800
    said(command(*asked, f"hydra.run.dir={killed}"))
    assert rows_of(killed) == rows_of(whole)
    assert arrays_of(killed, 800) == arrays_of(whole, 800)
