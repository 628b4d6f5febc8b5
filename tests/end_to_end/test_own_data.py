"""The pages on data of one's own: their commands train, and their files are written."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import open_dict

from helpers.pages import PAGES, ROOT, commands, write_files
from helpers.training import build_job, train_run
from runner.config import conf
from runner.sweep.compose import Composer

OWN = ("own_text", "own_table", "own_source")
SHORT = ("train.epochs=null", "train.steps=2", "train.log_every_steps=1")

# The first of each page is run always, the others at night.
COMMANDS = [
    pytest.param(page, line, marks=[pytest.mark.nightly] if i else [], id=f"{page}-{i}")
    for page in OWN
    for i, line in enumerate(commands(page))
]


def composed(folder, arguments):
    """The configuration of a command line in `folder`, shortened."""
    path = []
    if arguments[0] == "--config-dir":
        path = [f"hydra.searchpath=['file://{folder}/{arguments[1]}']"]
        arguments = arguments[2:]
    conf.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, compose("config", path, return_hydra_config=True))
        given = [a for a in arguments if a.split("=")[0] not in str(SHORT)]
        quick = ("framework=jax", "mesh=single", "verify=false")
        cfg = composer.compose([*given, *SHORT, *quick, "train.eval_every_steps=2"])
    with open_dict(cfg):
        del cfg["hydra"]
    if "data_dir" in cfg.data:
        cfg.data.data_dir = str(folder / "cache")
    return cfg


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_trains(page, command, tmp_path, monkeypatch, own_modules):
    write_files(page, tmp_path)
    for name in ("docs", "src"):  # what a checkout has
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    own_modules(tmp_path)
    program, arguments = command.split(" -m runner ")
    assert program == "python"
    cfg = composed(tmp_path, shlex.split(arguments))
    rows = []
    train_run(build_job(cfg).run, rows.append)
    assert rows[-1]["step"] == 2 and rows[-1]["validation/loss"] > 0


@pytest.mark.parametrize("page", OWN)
def test_a_page_is_short_and_its_options_exist(page):
    assert len(PAGES[page].splitlines()) <= 60
    options = (conf.conf_dir() / "data" / f"{page[4:]}.yaml").read_text()
    for key in re.findall(r"data\.(\w+)", PAGES[page]):
        assert re.search(rf"^{key}:", options, re.MULTILINE), key


def test_each_option_is_explained():
    for page in OWN:
        text = (conf.conf_dir() / "data" / f"{page[4:]}.yaml").read_text()
        lines = text[text.index("_target_") :].splitlines()[1:]
        for before, line in zip(["", *lines], lines, strict=False):
            is_option = re.match(r"\w+:", line)
            assert not is_option or "#" in line or before.startswith("#"), line
