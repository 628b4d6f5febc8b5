import pytest
from hydra.conf import ConfigSourceInfo

from runner.config.conf import conf_dir, search_path
from runner.config.ignored_files import refuse_ignored
from runner.errors import ConfigError


@pytest.fixture
def own(tmp_path):
    """Write a YAML file into a folder of one's own; returns the folder."""

    def own(name: str, folder: str = "own"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("_target_: optax.adam\n")
        return tmp_path / folder

    return own


def sources(*folders):
    found = [("hydra.conf", "pkg"), *((str(f), "file") for f in (conf_dir(), *folders))]
    return [ConfigSourceInfo(*one, "") for one in (*found, ("", "structured"))]


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("optimizer/adam.yaml", "optimizer=my_adam"),
        ("optimizer/search/adam.yaml", "optimizer/search=my_adam"),
        ("config.yaml", "--config-name=my_config"),
        ("hydra/job_logging/default.yaml", "hydra/job_logging=my_default"),
    ],
)
def test_a_file_that_hydra_would_ignore_is_refused(own, name, choice):
    folder = own(name)
    own("optimizer/mine.yaml")
    with pytest.raises(ConfigError) as error:
        refuse_ignored(sources(folder))
    assert f"Hydra would ignore {folder / name}: it finds " in str(error.value)
    assert str(error.value).endswith(f"choose it with {choice}")


def test_a_link_to_nowhere_as_emacs_locks_a_file_is_no_file(own):
    folder = own("optimizer/mine.yaml")
    (folder / "optimizer" / ".#mine.yaml").symlink_to("somebody@host.1")
    refuse_ignored(sources(folder))


def test_the_second_of_two_folders_of_ones_own(own):
    one, two = own("optimizer/mine.yaml"), own("optimizer/mine.yaml", "other")
    with pytest.raises(ConfigError, match=f"ignore {two}/optimizer/mine.yaml: it"):
        refuse_ignored(sources(one, two))


def test_other_names_and_the_shipped_folder_itself_are_fine(own, tmp_path):
    folder = own("optimizer/mine.yaml")
    refuse_ignored(sources(folder, folder, conf_dir(), tmp_path / "none"))
    refuse_ignored([ConfigSourceInfo("no.such.package", "pkg", ""), *sources()])
    assert search_path(folder)


def test_replay_and_parity_refuse_it_too(own):
    with pytest.raises(ConfigError, match="optimizer=my_adam"):
        search_path(own("optimizer/adam.yaml"))
