"""Runs read from W&B's offline files, as the real client writes them."""

import os
import subprocess
import sys

import polars as pl
import pytest

from runner.compare import load, load_wandb
from runner.errors import ConfigError

# In a process of its own, as wandb keeps one core process a process.
RECORD = """
import sys
from pathlib import Path
from runner.record.recorder import Recorder
from runner.record.mirrors import helper

helper.WAIT_SECONDS = 60.0  # on a machine that is busy

for name, seed in (("adam", 0), ("sgd", 1)):
    config = {
        "seed": seed,
        "objective": "validation/loss",
        "optimizer": {"_target_": f"optax.{name}", "learning_rate": 0.1, "b1": None},
        "model": {"hidden_sizes": [8, 4]},
        "wandb": {"mode": "offline", "project": "runner"},
        "hydra": {"choices": {"optimizer": name, "debug": None}, "overrides": []},
    }
    directions = {"loss": "min", "accuracy": "max"}
    provenance = {"git": {"commit": "c0ffee", "dirty": False}, "devices": ["cpu"],
                  "directions": directions}
    folder = Path(sys.argv[1], name)
    trackers = {"wandb": {"_target_": "runner.record.mirrors.wandb.WandbTracker"}}
    with Recorder(folder, config=config, provenance=provenance, quiet=True,
                  trackers=trackers, total_steps=40) as r:
        for step in range(1, 41):
            loss = float("nan") if step == 7 else 1 / step
            accuracy = {"validation/accuracy": step / 40}
            r.row({"step": step, "validation/loss": loss} | accuracy)
        r.finish({"compile_seconds": 0.5})
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    subprocess.run(
        [sys.executable, "-c", RECORD, str(root)],
        env=environment,
        check=True,
        capture_output=True,
    )
    return root


def test_an_offline_file_says_what_its_run_folder_says(recorded):
    folders, files = load.load([recorded]), load_wandb.load([recorded, recorded])
    assert files.problems == ()
    assert files.table["run"].to_list() == ["adam", "sgd"]
    assert set(files.table.columns) == set(folders.table.columns)
    assert files.table.select(folders.table.columns).equals(folders.table)
    assert files.curves.equals(folders.curves)
    assert files.curves.filter(pl.col("step") == 7)["validation/loss"].is_nan().all()


def test_torn_and_foreign_files(recorded, tmp_path):
    (file,) = load_wandb.wandb_files(recorded / "adam")
    torn = tmp_path / "run-torn.wandb"
    torn.write_bytes(file.read_bytes()[:-200])
    (tmp_path / "run-empty.wandb").write_bytes(b"")
    (tmp_path / "run-text.wandb").write_text("no protobuf here")
    runs = load_wandb.load([tmp_path])
    assert runs.table["run"].to_list() == ["run-torn.wandb"]
    assert runs.table["status"].to_list() == ["running"]
    assert 0 < runs.curves.height <= 40
    assert len(runs.problems) == 2
    assert all("not a .wandb file of version 0" in p for p in runs.problems)


def test_no_file_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="no offline W&B run"):
        load_wandb.load([tmp_path])
    with pytest.raises(ConfigError, match="is not a folder"):
        load_wandb.load([tmp_path / "missing"])
