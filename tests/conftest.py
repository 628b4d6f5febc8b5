"""A strict session: several virtual devices, shapes and dtypes that must be meant."""

import fcntl
import functools
import gc
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# A test trains for moments, for which XLA would compile seconds. In one piece, since
# the other processor has tests of its own, it takes a sixth less. Without emitters of
# fusions, which JAX 0.12 can't do without, it takes a third.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("WANDB_MODE", "disabled")

import jax
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hypothesis import settings
from omegaconf import DictConfig, open_dict
from xdist.scheduler import LoadGroupScheduling

from helpers.resuming import SMALL, run
from helpers.training import SESSION, assemble_job, build_job, train_run
from runner.config import conf
from runner.core.compiling import BRIEF, QUICK
from runner.core.run import Run
from runner.job.session import Session
from runner.record import compiled
from runner.sweep.compose import Composer

# Else a tenth of the time goes into searches for garbage: see runner.cli.
gc.freeze()
gc.set_threshold(100_000, 50, 50)
_USERS_BRIEF = BRIEF.copy()
BRIEF |= QUICK  # the models of tests are so small that nothing else is as quick
jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake
settings.load_profile("untimed")
_scan, _scanned = Plugins._scan_all_plugins, {}


def _scan_once(modules):
    """Hydra runs the modules of plugins again, in place, whenever it looks for them.

    Configurations made before couldn't be pickled then: their classes would be others.
    """
    names = tuple(module.__name__ for module in modules)
    if names not in _scanned:
        _scanned[names] = _scan(modules)
    return _scanned[names]


Plugins._scan_all_plugins = staticmethod(_scan_once)
Plugins.instance()
_FILES = SourcesRegistry.instance().resolve("file")
_load, _loaded = _FILES.load_config, {}


def _load_once(self, config_path):
    """Hydra reads the files of conf/ again for each configuration."""
    if self.path != str(conf.conf_dir()):
        return _load(self, config_path)
    key = self.provider, config_path
    if key not in _loaded:
        _loaded[key] = pickle.dumps(_load(self, config_path))
    return pickle.loads(_loaded[key])


_FILES.load_config = _load_once
_interpolation_map = defaults_list._create_interpolation_map


def _map_where_asked(overrides, defaults, self_added):
    """Hydra makes it for each file, in a third of the time of a configuration.

    It is for `${}` within a list of defaults, which few have.
    """
    asked = any(default.is_interpolation() for default in defaults)
    return _interpolation_map(overrides, defaults, self_added) if asked else None


defaults_list._create_interpolation_map = _map_where_asked

# Files of tests that take seconds each, most of them in processes of their own.
SCATTERED = (
    "test_accelerator.py", "test_audit.py", "test_cli.py", "test_commands.py",
    "test_common_stop.py", "test_configs.py", "test_examples.py",
    "test_interruption.py", "test_kills.py", "test_library.py", "test_own_data.py",
    "test_packed_sweep.py", "test_page_commands.py", "test_pages.py",
    "test_processes.py", "replay/test_record.py", "replay/test_run.py",
    "test_submit.py", "test_sweep.py", "test_unfinished_sweep.py",
)  # fmt: skip


class OneWorkerForAFile(LoadGroupScheduling):
    """The tests of a file on one worker: they share what it has traced and compiled.

    Those of SCATTERED come one by one, and last, so that both workers end together.
    Those for Slurm take turns anyway. xdist 3.8 can't name its groups to pytest 9.2:
    each worker waited for the other.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.endswith("slurm.py"):
            return "slurm"
        return nodeid if file.endswith(SCATTERED) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return OneWorkerForAFile(config, log)


@functools.cache
def no_slurm() -> str | None:
    """Why the tests marked `slurm` can't run, None if they can."""
    scontrol = shutil.which("scontrol")
    if scontrol is None:
        return "Slurm isn't installed: scripts/local_slurm install, or .ci/run"
    quiet = {"stderr": subprocess.DEVNULL, "text": True, "timeout": 5}
    try:
        told = subprocess.check_output([scontrol, "show", "config"], **quiet)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return "no Slurm answers: scripts/local_slurm start, and export its SLURM_CONF"
    if "= runner_local\n" not in told:
        return "the Slurm here isn't that of scripts/local_slurm; it is left in peace"
    return None


@pytest.fixture(autouse=True)
def slurm_alone(request):
    """A test marked `slurm` has Slurm to itself, and is skipped where there is none."""
    if not request.node.get_closest_marker("slurm"):
        yield
        return
    if reason := no_slurm():
        pytest.skip(reason)
    with open(f"{tempfile.gettempdir()}/runner-slurm-tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True, scope="module")
def only_its_own_compiled():
    """What a file has compiled goes with it: by the end a worker would take 5 GB."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Prepared data and compiled programs, shared by the tests of a session."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a folder of each worker, within ours
        root = root.parent
    root = root / "shared"
    compiled.set_up(str(root / "xla"))
    return {"data": root / "data", "xla": root / "xla"}


@pytest.fixture(scope="session")
def composer():
    """Composes as a sweep does, which shares what its jobs choose."""
    conf.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return Composer(loader, compose("config", return_hydra_config=True))


@pytest.fixture
def composed(folders, composer):
    """Compose a configuration as a sweep does; one device unless asked."""

    def composed(*overrides: str) -> DictConfig:
        given = [o.split("=")[0] for o in overrides]
        quick = ["mesh=single", "verify=false"]
        quick = [q for q in quick if q.split("=")[0] not in given]
        cfg = composer.compose([*quick, *overrides])
        with open_dict(cfg):
            del cfg["hydra"]
        if "data_dir" in cfg.data:
            cfg.data.data_dir = str(folders["data"])
        return cfg

    return composed


@pytest.fixture
def built(composed):
    """Build a run from overrides."""

    def built(*overrides: str) -> Run:
        return build_job(composed(*overrides)).run

    return built


@pytest.fixture
def assembled(composed):
    """Make a run from overrides of which nothing is traced yet, nor checked."""

    def assembled(*overrides: str) -> Run:
        return assemble_job(composed(*overrides))

    return assembled


@pytest.fixture
def trained(built):
    """Train a run from overrides; returns its rows, without the timings."""

    def trained(*overrides: str) -> list[dict]:
        rows: list[dict] = []
        train_run(built(*overrides), rows.append)
        for row in rows:
            del row["time/steps_per_second"]
        return rows

    return trained


@pytest.fixture
def own_modules(monkeypatch):
    """Import from a folder first. The package `my_lab` is in several of them."""

    def forget() -> None:
        for name in [*sys.modules]:
            if name.partition(".")[0] == "my_lab":
                del sys.modules[name]

    forget()
    yield monkeypatch.syspath_prepend
    forget()


_HAVE_SESSIONS = "job.run", "replay.again", "saved.model"


@pytest.fixture
def shared_session(monkeypatch):
    """Whole runs in this process trace and compile once what they have in common.

    Commands, each a process of its own, are in tests/end_to_end, job and sweep.
    """
    for module in _HAVE_SESSIONS:
        monkeypatch.setattr(f"runner.{module}.Session", lambda *_: SESSION)


@pytest.fixture
def users_initial_values(monkeypatch, shared_session):
    """Initial values have the bits of those of commands, which users compile."""
    for name, value in _USERS_BRIEF.items():
        monkeypatch.setitem(BRIEF, name, value)
    for module in _HAVE_SESSIONS:  # so that no other test has compiled them before
        monkeypatch.setattr(f"runner.{module}.Session", Session)


@pytest.fixture
def ran(composed, folders, shared_session):
    """Run a job in a folder of its own; `stop` is a step whose row kills it.

    It is a small one but for what is given; `~model.hidden_sizes` gives no width.
    """

    def ran(folder: Path, *overrides: str, stop: int | None = None) -> list[dict]:
        keys = {o.split("=")[0].removeprefix("~") for o in overrides}
        small = [o for o in SMALL if o.split("=")[0] not in keys]
        given = [o for o in overrides if o[0] != "~"]
        cache = f"compilation_cache={folders['xla']}"
        cfg = composed(*small, *given, cache, "wandb=disabled")
        return run(cfg, folder, stop)

    return ran
