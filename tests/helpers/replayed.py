"""A short run that is recorded, for tests that replay copies of it."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from runner.config import conf
from runner.config.hydra_job import HydraJob
from runner.job.run import run_job
from runner.record import checksums

SHORT = [
    "data=linear_ae",
    "model=linear_autoencoder",
    "train.epochs=null",
    "train.steps=6",
    "train.log_every_steps=2",
    "train.eval_every_steps=4",
    "mesh=single",
    "wandb=disabled",
]


def record(folder: Path, folders: dict[str, Path], *more: str) -> None:
    """Train and record a run, as the command line does."""
    overrides = [*SHORT, f"compilation_cache={folders['xla']}", *more]
    folder.mkdir()
    conf.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides)
    run_job(cfg, HydraJob(folder, {}, overrides, None))


@pytest.fixture(scope="session")
def recorded(folders, tmp_path_factory):
    """A run folder, for tests to copy and never to change."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    record(folder, folders)
    return folder


@pytest.fixture
def run(recorded, tmp_path):
    """A copy, without the checksums that would show what a test does to it."""
    ignored = shutil.ignore_patterns(checksums.FILE)
    return Path(shutil.copytree(recorded, tmp_path / "run", ignore=ignored))


def edit(run: Path, name: str, **values) -> None:
    """Set the values, by names with __ for dots, in one of `run`'s JSON files."""
    path = run / f"{name}.json"
    tree = json.loads(path.read_text())
    for key, value in values.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    path.write_text(json.dumps(tree))
