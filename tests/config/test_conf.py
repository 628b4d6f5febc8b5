import copy
import json
import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from hypothesis import given
from omegaconf import OmegaConf, base

from runner.config import conf
from runner.config.conf import LONGEST_NAME, folder_name
from runner.config.ranges import check_keys
from runner.errors import ConfigError
from runner.settings import Settings


@pytest.fixture(autouse=True)
def registered():
    conf.register()


def test_what_comes_from_the_environment_stays_its_name(monkeypatch):
    monkeypatch.setenv("API_KEY", "hunter2")
    cfg = OmegaConf.create(
        {
            "key": "${oc.env:API_KEY}",
            "again": "${key}",
            "within": {"text": "a ${..again} b", "list": ["${key}", 1]},
            "section": "${within}",
            "default": "${oc.env:NOT_THERE,x}/y",
            "plain": "${number}",
            "number": 0.5,
        }
    )
    recorded = conf.recorded(cfg)
    assert "hunter2" not in str(recorded)
    assert recorded == {
        "key": "${oc.env:API_KEY}",
        "again": "${key}",
        "within": {"text": "a ${..again} b", "list": ["${key}", 1]},
        "section": "${within}",
        "default": "${oc.env:NOT_THERE,x}/y",
        "plain": 0.5,
        "number": 0.5,
    }


@pytest.mark.parametrize("value", ["", "0", "1", "null"])
def test_a_short_environment_variable_hides_nothing_else(monkeypatch, value):
    monkeypatch.setenv("SHORT", value)
    cfg = OmegaConf.create({"a": "${oc.env:SHORT}", "b": 0.01, "c": "${b}"})
    assert conf.recorded(cfg) == {"a": "${oc.env:SHORT}", "b": 0.01, "c": 0.01}


def test_a_resolver_of_an_environment_variable_stays_text(monkeypatch):
    monkeypatch.setenv("STEPS", "100")
    cfg = OmegaConf.create(
        {
            "steps": "${oc.decode:${oc.env:STEPS}}",
            "warmup": "${fraction_of:${steps},0.1}",
            "other": "${fraction_of:50,0.1}",
        }
    )
    assert conf.recorded(cfg) == {
        "steps": "${oc.decode:${oc.env:STEPS}}",
        "warmup": "${fraction_of:${steps},0.1}",
        "other": 5,
    }


KEYS = "abcdefg"


@given(
    st.lists(
        st.one_of(st.integers(), st.booleans(), st.just("env"), st.sampled_from(KEYS)),
        min_size=1,
        max_size=len(KEYS),
    )
)
def test_exactly_what_depends_on_the_environment_stays_text(values):
    """A letter refers to an earlier key, so that there is no circle."""
    raw, tainted, plain = {}, set(), {}
    for key, value in zip(KEYS, values, strict=False):
        if value == "env" or (isinstance(value, str) and value not in plain):
            raw[key] = plain[key] = "${oc.env:PATH}"
            tainted.add(key)
        elif isinstance(value, str):
            raw[key] = f"${{{value}}}"
            plain[key] = raw[key] if value in tainted else plain[value]
            tainted |= {key} if value in tainted else set()
        else:
            raw[key] = plain[key] = value
    recorded = conf.recorded(OmegaConf.create(raw))
    assert recorded == plain
    assert json.loads(json.dumps(recorded)) == recorded


def test_the_default_config_is_recorded_and_read_again(built, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/somebody/cache")
    recorded = built().config
    assert recorded["compilation_cache"].startswith("${oc.env:XDG_CACHE_HOME")
    again = OmegaConf.merge(OmegaConf.structured(Settings), recorded)
    assert conf.recorded(again) == recorded


def test_a_missing_value_is_not_recorded():
    with pytest.raises(Exception, match="Missing mandatory value"):
        conf.recorded(OmegaConf.create({"a": "???"}))


def test_keys_that_nobody_reads_are_refused(composed):
    check_keys(composed())
    for key in ("train.step", "mesh.dat", "wandb.projct", "optimzer"):
        with pytest.raises(ConfigError, match=r"has no key .* Did you mean"):
            check_keys(composed(f"+{key}=1"))


@pytest.mark.parametrize(
    ("steps", "fraction", "expected"), [(100, 0.1, 10), (19, 0.1, 1), (5, 0.1, 1)]
)
def test_fraction_of_rounds_down_but_is_never_nothing(steps, fraction, expected):
    assert conf.fraction_of(steps, fraction) == expected


def test_folder_names():
    assert folder_name("optimizer=adam,seed=0") == "optimizer=adam,seed=0"
    assert folder_name("") == "default"
    assert "/" not in folder_name("data.data_dir=/tmp/x")
    assert folder_name("a=[1]") != folder_name("a=(1)")
    assert folder_name("..") not in (".", "..")


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True))
def test_two_names_never_share_a_folder(names):
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert "/" not in folder and "\0" not in folder and folder not in (".", "..")
        assert 0 < len(folder) <= LONGEST_NAME + 9


@pytest.mark.parametrize("character", ["é", "漢", "𠀀"])
def test_folder_names_are_cut_by_bytes(character):
    name = folder_name("+wandb.notes=" + character * 300)
    assert len(name.encode()) <= 255
    assert set(name[:-9]) <= set("+wandb.notes=" + character)
    assert name != folder_name("+wandb.notes=" + character * 301)


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "TFDS_DATA_DIR"])
@pytest.mark.parametrize("value", [None, "", "/there"])
def test_an_empty_variable_is_as_if_not_set(name, value, monkeypatch, composer):
    monkeypatch.setenv(name, value or "")
    conf.register()
    cfg = composer.compose([])
    found = cfg.compilation_cache if name == "XDG_CACHE_HOME" else cfg.data.data_dir
    assert found.startswith(value or "~/")


def test_the_store_is_not_copied_but_what_is_loaded_is():
    store = ConfigStore.instance()
    assert copy.deepcopy(store) is store
    one, other = (store.load("schema.yaml").node for _ in range(2))
    one.seed = 7
    later = store.load("schema.yaml").node
    assert OmegaConf.is_missing(other, "seed") and OmegaConf.is_missing(later, "seed")


def test_the_text_of_an_interpolation_is_parsed_once():
    cfg = OmegaConf.create({"steps": 50, "warmup": "${fraction_of:${steps},0.1}"})
    assert cfg.warmup == 5
    parsed = base.parse.cache_info().misses
    cfg.steps = 100
    assert cfg.warmup == 10
    assert base.parse.cache_info().misses == parsed


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_random_resolver_gives_one_value_or_is_refused(built, is_kept):
    """Else config.json has one learning rate, and the run trains with another."""
    OmegaConf.register_new_resolver("draw", random.random, use_cache=is_kept)
    try:
        if is_kept:
            run = built("optimizer.learning_rate=${draw:}")
            rate = run.config["optimizer"]["learning_rate"]
            assert run.learning_rates[0] == np.float32(rate)
            return
        with pytest.raises(ConfigError, match=r"^optimizer.learning_rate is another"):
            built("optimizer.learning_rate=${draw:}")
    finally:
        OmegaConf.clear_resolver("draw")
