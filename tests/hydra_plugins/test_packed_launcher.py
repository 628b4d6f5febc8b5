"""The launcher as Hydra sees it: its own conformance suite."""

import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.version import VersionBase

from hydra_plugins.packed_launcher import PackedLauncher

# Hydra's suite reads its own configurations, which say no version.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def as_in_another_program(hydra_restore_singletons):
    """Nothing is said of Hydra's versions."""
    Singleton._instances.pop(VersionBase, None)


def test_hydra_finds_it():
    names = [cls.__name__ for cls in Plugins.instance().discover(Launcher)]
    assert PackedLauncher.__name__ in names


@pytest.mark.parametrize(("launcher_name", "overrides"), [("packed", [])])
class TestPackedLauncher(LauncherTestSuite):
    """One job, several, groups, failures, order of jobs and so on."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("packed", ["hydra.sweeper.max_batch_size=2"])],
)
class TestPackedLauncherInBatches(BatchedSweeperTestSuite):
    """As the Optuna sweeper uses it."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=packed"])],
)
class TestPackedLauncherIntegration(IntegrationTestSuite):
    """From the command line of another program. Its tables are for the night."""

    test_custom_task_name = pytest.mark.nightly(
        IntegrationTestSuite.test_custom_task_name
    )
    test_custom_sweeper_run_workdir = pytest.mark.nightly(
        IntegrationTestSuite.test_custom_sweeper_run_workdir
    )
