"""A run that is saved and taken up is the run that was never interrupted."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.at_night import one_in
from helpers.resuming import SMALL, arrays_of, record, rows_of
from runner.core.shapes import start_shapes
from runner.core.snapshot import Snapshot
from runner.errors import ConfigError
from runner.job import restore
from runner.job.checkpoint import Checkpoints
from runner.record import checksums
from runner.replay.again import Limits, replay
from runner.replay.rows import Differs
from runner.settings import CheckpointSettings

CASES = {
    "fed from the host, a plateau of the evaluation, an average, linen": (
        "framework=linen", "data.mode=memory", "train.gradient_accumulation=2",
        "model.dropout=0.2", "schedule=reduce_on_plateau",
        "schedule.watch=validation", "schedule.unit=steps", "schedule.patience=15",
        "schedule.rtol=0.5", "train.ema_decay=0.9",
    ),
    "streamed, schedule-free": ("data.mode=stream", "optimizer=schedule_free_adamw"),
    "BatchNorm and dropout, nnx": (
        "framework=nnx", "model=cnn", "~model.hidden_sizes", "model.channels=[4]",
        "model.hidden_size=8", "model.dropout=0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_resumed_bit_for_bit(ran, tmp_path, name):
    """Between two evaluations, and right after one that the next step consumes."""
    overrides = CASES[name]
    whole = ran(tmp_path / "whole", *overrides)
    folder = tmp_path / "killed"
    every = "checkpoint.every_steps=15"
    ran(folder, *overrides, every, stop=18)
    assert restore.steps(folder / "checkpoints") == [15]
    ran(folder, *overrides, "checkpoint.every_steps=4", stop=27)
    assert ran(folder, *overrides, every) == whole
    assert arrays_of(folder, 40) == arrays_of(tmp_path / "whole", 40)
    assert record(folder, "summary")["status"] == "finished"
    assert record(folder, "summary")["restarts"] == 2
    assert record(folder, "summary")["best"].keys() == {
        k for k in record(tmp_path / "whole", "summary")["best"]
    }
    restarts = record(folder, "provenance")["restarts"]
    assert restarts[0]["step"] == 15 and restarts[1]["step"] in (16, 20, 24)
    assert record(folder, "provenance")["changes"] == []


def test_without_a_checkpoint_it_begins_again(ran, tmp_path):
    whole = ran(tmp_path / "whole")
    ran(tmp_path / "killed", stop=18)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 18, "train/l')  # torn
    assert ran(tmp_path / "killed") == whole


# With arrays of no elements, keys, lists, other dtypes, and states of their own kind.
STATES = ("galore", "noisy_sgd", "sm3", "adafactor", "schedule_free_adamw", "dog",
          "lbfgs", "momo_adam", "muon")  # fmt: skip


@pytest.mark.parametrize("states", one_in(2, [STATES[:6], STATES]))
def test_every_kind_of_state_comes_back(built, tmp_path, states):
    """All in one checkpoint, with values that are made up."""
    numbers = itertools.count(1)

    def made_up(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(next(numbers))
        return jnp.full(leaf.shape, next(numbers) % 100, leaf.dtype)

    runs = {name: built(f"optimizer={name}", *SMALL[:2]) for name in states}
    targets = {name: start_shapes(r.spec, r.values) for name, r in runs.items()}
    target = Snapshot({k: t.carry for k, t in targets.items()}, targets["dog"][1])
    saved = jax.tree.map(made_up, target)
    program = runs["dog"].spec.description
    settings = CheckpointSettings(1, None, 1, False, False, "auto")
    saver = Checkpoints(tmp_path, settings, "", lambda step: {"program": program})
    with saver:
        saver.save(7, saved, "always")
    start = restore.newest(tmp_path, None, target, program)
    assert start.step == 7
    assert jax.tree.structure(start.snapshot) == jax.tree.structure(saved)
    for a, b in zip(*map(jax.tree.leaves, (start.snapshot, saved)), strict=True):
        assert a.dtype == b.dtype and (a == b).all()


@pytest.mark.parametrize("devices", [("single", "data"), ("data", "single")])
def test_another_number_of_devices(ran, tmp_path, devices):
    before, after = devices
    whole = ran(tmp_path / "whole", f"mesh={before}")
    ran(tmp_path / "killed", f"mesh={before}", "checkpoint.every_steps=15", stop=18)
    rows = ran(tmp_path / "killed", f"mesh={after}")
    for row, wanted in zip(rows, whole, strict=True):
        assert row.keys() == wanted.keys()
        np.testing.assert_allclose(
            list(row.values()), list(wanted.values()), rtol=1e-4, atol=1e-6
        )
    (change,) = record(tmp_path / "killed", "provenance")["changes"]
    assert change.startswith("devices: ") and "up to step 15, then" in change


def test_a_run_that_resumes_with_other_code_or_data_says_so(ran, tmp_path):
    asked = "checkpoint.every_steps=15", "verify=false"
    ran(tmp_path, *asked, stop=18)
    path = tmp_path / "provenance.json"
    earlier = record(tmp_path, "provenance")
    earlier["module_digests"] |= {__name__: "ab", "not_loaded_now": "cd"}
    earlier["data_digest"]["train"]["label"] = "ef"
    path.write_text(json.dumps(earlier))
    with pytest.raises(ConfigError, match=r"provenance\.json isn't as the run wrote"):
        ran(tmp_path, *asked)
    (tmp_path / checksums.FILE).unlink()
    ran(tmp_path, *asked)
    code, data = record(tmp_path, "provenance")["changes"]
    assert code.startswith(f"module_digests.{__name__}: ab up to step 15, then ")
    assert data.startswith("data_digest.train.label: ef up to step 15, then ")


def test_it_doesnt_resume_as_a_run_that_was_verified(ran, tmp_path):
    ran(tmp_path, "verify=false", "checkpoint.every_steps=15", stop=18)
    with pytest.raises(ConfigError, match=r"with verify=False, now True"):
        ran(tmp_path, "verify=true")


# Orbax leaves its threads to themselves when a read fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_one_falls_back_to_the_one_before(ran, tmp_path, capfd):
    whole = ran(tmp_path / "whole")
    folder = tmp_path / "killed"
    keep = ("checkpoint.every_steps=10", "checkpoint.keep=2")
    with pytest.MonkeyPatch.context() as patch:
        # Not skipped, however long the one before takes.
        patch.setattr(Checkpoints, "_is_free", lambda self: True)
        ran(folder, *keep, stop=33)
    assert restore.steps(folder / "checkpoints") == [20, 30]
    largest(folder / "checkpoints" / "30" / "state").write_bytes(b"")
    capfd.readouterr()
    assert ran(folder, *keep) == whole
    assert "checkpoints/30 is damaged" in capfd.readouterr().err
    assert record(folder, "provenance")["restarts"][0]["step"] == 20
    assert arrays_of(folder, 40) == arrays_of(tmp_path / "whole", 40)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_row_is_cut_when_none_can_be_read(ran, tmp_path):
    before = ran(tmp_path, "checkpoint.every_steps=10", stop=33)
    for path in (tmp_path / "checkpoints").iterdir():
        largest(path / "state").write_bytes(b"")
    with pytest.raises(ConfigError, match="none of the checkpoints"):
        ran(tmp_path)
    assert rows_of(tmp_path) == before


def largest(folder: Path) -> Path:
    found = [path for path in (folder / "d").iterdir() if path.is_file()]
    return max(found, key=lambda path: path.stat().st_size)


REFUSED = {
    "model.hidden_sizes=[24]": r"params/dense_0/bias is float32\[16\] there, and "
    r"float32\[24\] here",
    "optimizer=sgd": r"model or optimizer: opt_state/\S+ is \S+ there, and nothing",
    "optimizer=adamw": r"optimizer._target_ is optax.adam there, and optax.adamw here",
    "framework=linen": r"framework._target_ is runner.frameworks.jax",
    "train.steps=20": r"train.steps=20 is less than the 40 steps of the checkpoint",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_checkpoint_of_another_run_is_refused(ran, tmp_path, override):
    if not (tmp_path / "one").exists():
        ran(tmp_path / "one")
    with pytest.raises(ConfigError, match=REFUSED[override]):
        ran(tmp_path / "two", override, f"checkpoint.resume={tmp_path / 'one'}")
    assert not (tmp_path / "two" / "metrics.jsonl").exists()


def test_a_path_without_checkpoints_is_refused(ran, tmp_path):
    with pytest.raises(ConfigError, match="must be auto, never, a run folder that has"):
        ran(tmp_path / "two", f"checkpoint.resume={tmp_path}")


def test_a_checkpoint_that_was_not_kept_is_refused(ran, tmp_path):
    ran(tmp_path / "one", "checkpoint.every_steps=10", stop=18)
    (kept,) = restore.steps(tmp_path / "one" / "checkpoints")
    with pytest.raises(ConfigError, match=f"5 isn't there: .* has {kept}, and"):
        ran(tmp_path / "two", f"checkpoint.resume={tmp_path}/one/checkpoints/5")


def test_another_config_in_the_same_folder_is_refused(ran, tmp_path):
    before = ran(tmp_path, stop=18)
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate=0.001, now 0.5"):
        ran(tmp_path, "optimizer.learning_rate=0.5")
    with pytest.raises(ConfigError, match="rows of an earlier run"):
        ran(tmp_path, "checkpoint.resume=never")
    assert rows_of(tmp_path) == before
    ran(tmp_path / "empty", stop=1)  # where nothing can be mixed up
    assert ran(tmp_path / "empty", "optimizer.learning_rate=0.5")


def test_a_finished_run_is_extended(ran, tmp_path):
    """By 5 steps after an evaluation of its own: as if it had always been longer."""
    longer = ran(tmp_path / "longer", "train.steps=50")
    one = tmp_path / "one"
    short = ran(one, "train.steps=45")
    assert ran(one, "train.steps=45") == short
    two = tmp_path / "two"
    ran(two, "train.steps=50", f"checkpoint.resume={one}", stop=48)
    assert ran(two, "train.steps=50", f"checkpoint.resume={one}") == longer
    assert rows_of(one) == short
    (restart,) = record(two, "provenance")["restarts"]
    assert restart["step"] == 45 and restart["from"] == str(one)
    assert record(two, "provenance")["changes"] == []
    named = f"checkpoint.resume={one / 'checkpoints' / '45'}"
    assert ran(tmp_path / "three", "train.steps=50", named) == longer
    assert ran(one, "train.steps=50") == longer


def test_an_extension_that_is_another_run_says_so(ran, tmp_path):
    ran(tmp_path, "schedule=cosine")
    ran(tmp_path, "schedule=cosine", "train.steps=50")
    rates, evaluated = record(tmp_path, "provenance")["changes"]
    assert rates == "learning rates: those of train.steps=40 up to step 40"
    assert evaluated == "step 40, the last of a shorter run, was evaluated"
    resumed = tmp_path / "other"
    ran(resumed, "optimizer.learning_rate=0.1", "train.steps=50",
        "schedule=cosine", f"checkpoint.resume={tmp_path}")  # fmt: skip
    assert any(
        "optimizer.learning_rate: 0.001 up to step 50" in change
        for change in record(resumed, "provenance")["changes"]
    )


@pytest.mark.smoke
def test_a_replay_of_a_resumed_run_compares_bits(ran, tmp_path, capsys):
    ran(tmp_path, "checkpoint.every_steps=15", stop=18)
    ran(tmp_path)
    assert "equal bit for bit" in replay(tmp_path, Limits(1e-5, contradiction=True))


@pytest.mark.parametrize("change", ["mesh=data", "schedule=cosine"])
def test_a_replay_tells_of_a_run_that_was_changed(ran, tmp_path, capsys, change):
    if change == "mesh=data":
        ran(tmp_path, "checkpoint.every_steps=15", stop=18)
        ran(tmp_path, change)
        assert "largest relative difference" in replay(
            tmp_path, Limits(1e-3, contradiction=True)
        )
    else:
        ran(tmp_path, change)
        ran(tmp_path, change, "train.steps=60")
        with pytest.raises(Differs, match="train/learning_rate"):
            replay(tmp_path, Limits(1e-5, contradiction=True))
    assert "changes on the way has changed" in capsys.readouterr().out.replace(
        "devices, changes on the way have", "changes on the way has"
    )


def test_a_run_without_checkpoints_can_not_be_extended(ran, tmp_path):
    ran(tmp_path, "checkpoint.last=false")
    with pytest.raises(ConfigError, match=r"no checkpoint to continue from to 50: c"):
        ran(tmp_path, "train.steps=50")


def test_the_newest_and_the_best_are_kept(ran, tmp_path):
    rows = ran(
        tmp_path, "checkpoint.best=true", "train.eval_every_steps=5",
        "optimizer.learning_rate=1.0", "checkpoint.keep=1",
    )  # fmt: skip
    losses = {r["step"]: r["validation/loss"] for r in rows if "validation/loss" in r}
    best = min(losses, key=lambda step: losses[step])
    assert best < 40
    assert restore.steps(tmp_path / "checkpoints") == [best, 40]


@pytest.mark.parametrize(
    "override, told",
    [
        ("checkpoint.every_steps=0", "at least 1, or null"),
        ("checkpoint.every_minutes=0", "greater than 0"),
        ("checkpoint.keep=0", "at least 1"),
        ("checkpoint.resume=nowhere", "must be auto, never, a run folder"),
    ],
)
def test_values_out_of_range(ran, tmp_path, override, told):
    with pytest.raises(ConfigError, match=told):
        ran(tmp_path / "run", override)


def test_the_best_needs_an_evaluation(ran, tmp_path):
    with pytest.raises(ConfigError, match="to be a validation/ metric"):
        ran(tmp_path, "checkpoint.best=true", "objective=train/loss")


def test_two_processes_in_one_folder(ran, tmp_path):
    from runner.record.files import MetricsFile

    ran(tmp_path, stop=18)
    file = MetricsFile(tmp_path / "metrics.jsonl")
    before = rows_of(tmp_path)
    with pytest.raises(ConfigError, match="another process is writing there"):
        ran(tmp_path)
    file.close()
    assert rows_of(tmp_path) == before


def test_a_short_run_never_imports_orbax(tmp_path):
    code = (
        "import sys; from runner.cli import main; main(); "
        "assert not [m for m in sys.modules if 'orbax' in m]"
    )
    given = ["debug=tiny", "verify=false", *SMALL[:2]]
    command = [sys.executable, "-c", code, *given]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
