"""The run that a replay trains: the same again, and each way in which it isn't."""

import json
import math
import os
import re
import subprocess
from importlib.metadata import version

import pytest
from hydra import compose, initialize_config_dir

from helpers.at_night import each_in_one
from helpers.forked import python
from helpers.replayed import edit, record, recorded, run
from runner.config import conf
from runner.core import choose
from runner.core.choose import Choice
from runner.errors import TrainingStopped
from runner.record import checksums
from runner.record.files import read_metrics
from runner.replay.__main__ import main

pytestmark = pytest.mark.usefixtures("shared_session")
__all__ = ["recorded", "run"]  # fixtures


@pytest.mark.smoke
def test_the_same_again(run, capsys):
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert main([str(run)]) == 0
    told = capsys.readouterr()
    assert "optimizer=optax.adam" in told.out and "warning" not in told.out
    assert "Comparing bit for bit" in told.out
    assert told.out.endswith(
        f"Replayed 6 steps of {run}: all 4 logged rows equal bit for bit.\n"
    )
    assert "step 6/6" in told.err
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_probe_that_was_taken_away(run, capsys):
    edit(run, "config", probes={"norms": None})
    rows = read_metrics(run / "metrics.jsonl")
    rows[0]["probe/norms/x"] = 1.0  # from before the run was resumed without it
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main([str(run)]) == 0, capsys.readouterr().out


def test_data_that_is_not_there(run, tmp_path, capsys):
    path = run / "config.json"
    tree = json.loads(path.read_text())
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        data = conf.recorded(compose("config", ["data=mnist", "train.steps=1"]).data)
    tree["data"] = data | {"data_dir": str(tmp_path / "none"), "download": False}
    path.write_text(json.dumps(tree))
    assert main([str(run)]) == 1
    assert "mnist" in capsys.readouterr().err


def test_other_versions_are_compared_within_the_tolerance(run, capsys):
    edit(run, "provenance", packages__jax="0.9.1", runner_git=None)
    rows = read_metrics(run / "metrics.jsonl")
    rows[1]["train/loss"] *= 1 + 1e-6
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^jax +0\.9\.1 +", out, re.MULTILINE)
    assert "within 1e-05 (relative): jax has changed." in out
    assert "largest relative difference is 1e-06 (train/loss at step 2)" in out
    assert main([str(run), "--tolerance", "1e-8"]) == 3
    edit(run, "provenance", packages__jax=version("jax"))
    assert main([str(run)]) == 3
    assert "at step 2, train/loss was" in capsys.readouterr().out
    assert main([str(run), "--allow-rounding"]) == 0
    assert "as --allow-rounding asks" in capsys.readouterr().out


@pytest.mark.parametrize("members", [1, 8])
def test_a_difference_to_a_member_of_a_population_may_be_rounding(run, capsys, members):
    edit(run, "provenance", members=members)
    rows = read_metrics(run / "metrics.jsonl")
    rows[1]["train/loss"] *= 1.1
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main([str(run)]) == 3
    said = "The run trained side by side with 7 others, which rounds differently"
    assert (said in capsys.readouterr().out) == (members == 8)


@pytest.mark.parametrize(
    ("fact", "name", "status"),
    [
        ("data_digest__validation__input", "data_digest.validation.input", 3),
        ("data_digest__files", "data_digest.files", 0),  # maybe the same, elsewhere
        ("first_batch", "first_batch", 3),
    ],
)
def test_other_data_are_named_though_no_row_differs(run, capsys, fact, name, status):
    edit(run, "provenance", **{fact: "other"})
    assert main([str(run)]) == status
    out = capsys.readouterr().out
    assert f"Different even before training: {name}.\n" in out
    assert (f"all rows are equal, but not {name}" in out) == (status == 3)


def test_code_and_environment_that_changed_are_shown(run, capsys):
    edit(run, "provenance", module_digests={"my_lab.model": "ab", __name__: "cd"})
    edit(run, "provenance", packages__pytest="1.0")
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert f"module_digests.{__name__}" in out and "packages.pytest" in out
    assert "my_lab" not in out and "Comparing bit for bit" in out
    edit(run, "provenance", environment__NVIDIA_TF32_OVERRIDE="0")
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "environment.NVIDIA_TF32_OVERRIDE has changed." in out


def test_more_devices_than_there_are(run, capsys):
    edit(run, "provenance", device_count=64, devices=["cpu"] * 64)
    assert main([str(run)]) == 1
    told = capsys.readouterr().err
    assert "had 64 x cpu devices, and there are 8 x cpu here" in told
    assert "JAX_NUM_CPU_DEVICES" in told


def test_all_devices_are_as_many_as_there_were(run, capsys):
    edit(run, "config", mesh__data=-1)
    assert main([str(run)]) == 0
    assert "mesh.data 1 -> -1" in capsys.readouterr().out


def test_a_run_that_stopped_at_a_nan_stops_there_again(folders, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped):
        record(run, folders, "optimizer.learning_rate=1e30", "verify=false")
    assert not math.isfinite(read_metrics(run / "metrics.jsonl")[-1]["train/loss"])
    capsys.readouterr()
    assert main([str(run), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "(cut short, 2 logged rows)" in told
    assert "all 2 logged rows equal bit for bit" in told
    again = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert not math.isfinite(again[-1]["train/loss"])


def test_out_is_a_run_that_can_be_replayed(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(run), "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["status"] == "finished"
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["replay_of"] == str(run)
    assert main([str(out)]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main([str(run), "--out", str(out)]) == 1
    assert "already has a run" in capsys.readouterr().err


@pytest.mark.usefixtures("users_initial_values")
def test_from_the_command_line_with_a_wandb_file(folders, tmp_path, capsys):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env |= {"TFDS_DATA_DIR": str(folders["data"])}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return python("-m", *arguments, cwd=tmp_path, env=env)

    done = run(
        "runner", "train.steps=50", "mesh=single", "hydra.run.dir=run",
        "schedule=warmup_cosine", "seed=3", "verify=false",
        f"compilation_cache={folders['xla']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run("runner.replay", "run")
    assert done.returncode == 0, done.stderr
    verdict = "Replayed 50 steps of run: all 8 logged rows equal bit for bit.\n"
    assert done.stdout.endswith(verdict)
    assert "warning" not in done.stdout
    # The mirror has it all, even in a process with more devices.
    assert main([str(tmp_path / "run" / "wandb")]) == 0
    assert "all 8 logged rows equal bit for bit" in capsys.readouterr().out
    (tmp_path / "run" / checksums.FILE).unlink()
    edit(tmp_path / "run", "config", seed=4)
    assert main([str(tmp_path / "run")]) == 3
    assert "/run: at step 1, train/" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked,form", each_in_one(["auto", "itself"], ["patches", "native"])
)
def test_a_convolution_is_replayed_in_its_recorded_form(
    asked, form, folders, tmp_path, capsys, monkeypatch
):
    small = "data=digits", "model=cnn", "model.channels=[4]", "train.steps=2"
    own = () if asked == "auto" else (f"train.convolution={form}",)
    chosen = Choice(form, 1, "table", {})
    with monkeypatch.context() as patch:
        patch.setattr(choose, "by_table", lambda *_: chosen)
        record(tmp_path / "run", folders, *small, *own)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["train"]["convolution"] == form
    assert main([str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "bit for bit" in out and "warning" not in out
