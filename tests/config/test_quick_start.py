"""Hydra's mode is what it was when Hydra composed everything to find it."""

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from runner.config import quick_start
from runner.config.conf import conf_dir, register


@pytest.fixture
def hydra(monkeypatch):
    """Returns a Hydra of our main, and how often it has composed."""

    def made(folder=None):
        search = create_config_search_path(str(folder or conf_dir()))
        hydra = Hydra.create_main_hydra2("test", search)
        compose, count = hydra.compose_config, []
        monkeypatch.setattr(
            hydra, "compose_config", lambda **k: count.append(k) or compose(**k)
        )
        return hydra, count

    register()
    monkeypatch.setattr(Hydra, "get_mode", quick_start._mode)
    yield made
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("overrides", [[], ["optimizer=sgd,adam", "hydra.run.dir=x"]])
def test_nothing_is_composed_where_nothing_sets_it(hydra, overrides):
    made, count = hydra()
    assert made.get_mode("config", overrides) is None
    assert not count
    assert quick_start._composed(made, "config", overrides) is None
    assert len(count) == 1


@pytest.mark.parametrize("override", ["hydra.mode=MULTIRUN", "hydra={mode:MULTIRUN}"])
def test_an_override_sets_it(hydra, override):
    assert hydra()[0].get_mode("config", [override]) == RunMode.MULTIRUN


@pytest.mark.parametrize("is_searched", [True, False])
def test_a_file_sets_it(hydra, tmp_path, monkeypatch, is_searched):
    folder = tmp_path / "experiment"
    folder.mkdir()
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n"
    (folder / "all.yaml").write_text(text, encoding="utf-8")
    overrides = ["experiment=all"]
    if is_searched:
        made = hydra()[0]
        overrides += [f"hydra.searchpath=['file://{tmp_path}']"]
    else:
        for path in conf_dir().rglob("*.yaml"):
            copy = tmp_path / path.relative_to(conf_dir())
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
        monkeypatch.setattr(quick_start, "conf_dir", lambda: tmp_path)
        made = hydra(tmp_path)[0]
    assert made.get_mode("config", overrides) == RunMode.MULTIRUN
