import jax
import pytest

from runner.errors import ConfigError
from runner.record import compilation_cache


@pytest.fixture(autouse=True)
def restored():
    before = jax.config.jax_compilation_cache_dir
    yield
    compilation_cache.set_up(before)


def test_the_folder_is_made_and_used(tmp_path):
    compilation_cache.set_up(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "b")


def test_the_users_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    compilation_cache.set_up("~/cache")
    assert (tmp_path / "cache").is_dir()


def test_null_turns_it_off():
    compilation_cache.set_up(None)
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(ConfigError, match=f"compilation_cache={folder} .* or null"):
            compilation_cache.set_up(str(folder))


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda path, mode: False)  # root may write all
        with pytest.raises(ConfigError, match="can't be written; null turns it off"):
            compilation_cache.set_up(str(tmp_path))
