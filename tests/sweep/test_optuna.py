"""A search is continued: by its sampler's seed and its sweep's ledger."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate

from runner.config import conf
from runner.errors import ConfigError

_impl = pytest.importorskip(
    "hydra_plugins.hydra_optuna_sweeper._impl",
    reason="the extra `optuna` isn't installed",
)
from runner.sweep.optuna import continued  # noqa: E402


class Launcher:
    """Has a result for each job, up to its last batch."""

    def __init__(self, batches=100):
        self.resume, self.search = True, None
        self.batches, self.asked = batches, []

    def launch(self, jobs, initial_job_idx):
        if not self.batches:
            raise KeyboardInterrupt
        self.batches -= 1
        (self.folder / "sweep.json").touch()
        self.asked += jobs
        return [self._done(job) for job in jobs]

    def _done(self, job):
        done = JobReturn(status=JobStatus.COMPLETED)
        done.return_value = sum(len(override) for override in job) / 100
        return done


@pytest.fixture
def searched(tmp_path):
    """The jobs that a search asks for."""

    def searched(*overrides, launcher=None, folder="search"):
        conf.register()
        GlobalHydra.instance().clear()
        launcher = launcher or Launcher()
        given = ["sweep=optuna", "optimizer=sgd", "hydra.sweeper.n_jobs=2", *overrides]
        lines = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path / folder}", *given]
        with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
            master = compose("config", lines, return_hydra_config=True)
        settings = dict(master.hydra.sweeper)
        names = (
            "sampler",
            "direction",
            "storage",
            "study_name",
            "n_trials",
            "n_jobs",
            "max_failure_rate",
            "search_space",
            "custom_search_space",
            "params",
        )
        settings["sampler"] = instantiate(settings["sampler"])
        sweeper = _impl.OptunaSweeperImpl(*(settings.get(name) for name in names))
        sweeper.config, sweeper.launcher = master, launcher
        sweeper.hydra_context, launcher.folder = True, tmp_path / folder
        task = list(master.hydra.overrides.task)
        with continued(sweeper, task):
            sweeper.sweep(task)
        return launcher.asked

    return searched  # fmt: skip


@pytest.mark.parametrize("seed", [0, "null"])
def test_a_longer_search_begins_with_the_shorter_one(searched, seed):
    sampler = f"hydra.sweeper.sampler.seed={seed}"
    launcher = Launcher(batches=6)
    with pytest.raises(KeyboardInterrupt):
        searched(sampler, "hydra.sweeper.n_trials=14", launcher=launcher)
    assert len(launcher.asked) == 12  # past those that are drawn at random
    again = searched(sampler, "hydra.sweeper.n_trials=16")
    assert again[:12] == launcher.asked and len(again) == 16
    other = searched(sampler, "hydra.sweeper.n_trials=2", folder="other")
    assert (other == again[:2]) == (seed == 0)


def test_another_search_in_its_folder_is_refused(searched):
    searched("hydra.sweeper.n_trials=2")
    with pytest.raises(ConfigError, match="belongs to a search with another n_jobs: 2"):
        searched("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    with pytest.raises(ConfigError, match="another sampler"):
        searched("hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1")


def test_a_damaged_record_is_refused(searched, tmp_path):
    searched("hydra.sweeper.n_trials=2")
    (tmp_path / "search/search.json").write_text("{")
    with pytest.raises(ConfigError, match=r"search\.json can't be read as a search's"):
        searched("hydra.sweeper.n_trials=2")


def test_a_search_that_never_began_leaves_nothing(searched, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        searched(launcher=Launcher(batches=0), folder="a/b")
    assert not list(tmp_path.iterdir())


def test_a_database_that_optuna_cannot_write_is_refused(searched, monkeypatch):
    monkeypatch.setattr("sqlalchemy.__version__", "2.0.1")
    with pytest.raises(ConfigError, match="needs SQLAlchemy 1, and here is 2"):
        searched("hydra.sweeper.storage='sqlite:///x.db'")


@pytest.mark.nightly
def test_a_killed_search_finds_the_same(tmp_path, folders):
    command = [
        sys.executable, "-m", "runner", "-m", "sweep=optuna", "optimizer=adam",
        "debug=tiny", "framework=jax", "model.hidden_sizes=[8]", "mesh=single",
        "verify=false", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=14",
        f"data.data_dir={folders['data']}", f"compilation_cache={folders['xla']}",
    ]  # fmt: skip

    def start(folder):
        folder.mkdir(exist_ok=True)
        with open(folder / "log", "w") as log:
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    def found(folder):
        (ledger,) = folder.rglob("sweep.json")
        jobs = json.loads(ledger.read_text())["jobs"].values()
        best = (ledger.parent / "optimization_results.yaml").read_text()
        return [(job["overrides"], job["state"], job["result"]) for job in jobs], best

    assert start(tmp_path / "whole").wait(300) == 0
    killed = tmp_path / "killed"
    first = start(killed)
    until = time.monotonic() + 300
    while "sweep 12/" not in (killed / "log").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    assert start(killed).wait(300) == 0
    assert "continuing the unfinished search in " in (killed / "log").read_text()
    assert found(killed) == found(tmp_path / "whole")
