import importlib
import sys
from importlib.metadata import version

import pytest

from runner.record.loaded import Loaded


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a module below a folder of `tmp_path`, and import it."""
    known = set(sys.modules)

    def load(name: str, text: str, folder: str = "own"):
        path = tmp_path / folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / folder)
        importlib.import_module(name)
        return path

    yield load
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_versions_of_what_is_loaded_whatever_its_modules_are_called():
    import attr
    import PIL
    import yaml

    versions, _ = Loaded().facts()
    assert {attr.__name__, PIL.__name__, yaml.__name__} <= set(sys.modules)
    for name in ("attrs", "pillow", "pyyaml", "jax", "numpy", "hydra-core"):
        assert versions[name] == version(name)
    assert "ruff" not in versions  # installed, but a program


def test_modules_of_ones_own_by_name_and_no_others(load):
    loaded = Loaded()
    before = loaded.facts()[1]
    assert not {name for name in before if name.split(".")[0] in ("runner", "jax")}
    assert not {"json", "__main__", "numpy.linalg"} & set(before)
    load("mine_a", "x = 1")
    load("their.deep", "x = 1")
    load("mine_b", "x = 2")
    after = loaded.facts()[1]
    assert set(after) - set(before) == {"mine_a", "mine_b", "their.deep"}
    assert after["mine_a"] == after["their.deep"] != after["mine_b"]


def test_an_edit_after_it_was_loaded_isnt_what_runs(load):
    loaded = Loaded()
    path = load("mine_c", "x = 1")
    first = loaded.facts()[1]["mine_c"]
    path.write_text("x = 2")
    assert loaded.facts()[1]["mine_c"] == first
    assert Loaded().facts()[1]["mine_c"] == first  # of the next run in a notebook
    importlib.reload(sys.modules["mine_c"])
    assert Loaded().facts()[1]["mine_c"] != first


def test_an_installed_file_without_a_distribution_is_ones_own(load, tmp_path):
    site = tmp_path / "site-packages"
    info = site / "Their_Package-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").write_text("their_module.py,,\n")
    load("their_module", "", "site-packages")
    load("a_patch", "", "site-packages")
    versions, digests = Loaded().facts()
    assert versions["their-package"] == "1.5" and "their_module" not in digests
    assert "a_patch" in digests


def test_a_module_that_loads_when_it_is_used_isnt_used(monkeypatch):
    class Lazy(type(sys)):
        def __getattribute__(self, name):
            raise AssertionError(name)

    monkeypatch.setitem(sys.modules, "lazy_one", Lazy("lazy_one"))
    monkeypatch.setitem(sys.modules, "no_module", None)
    Loaded().facts()
