"""Paths are relative to where a command was given, wherever Hydra changes to."""

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from runner.config.hydra_job import hydra_job


def run_in(cfg, monkeypatch, mode="RUN"):
    with open_dict(cfg.hydra):
        OmegaConf.set_readonly(cfg.hydra, False)
        cfg.hydra.runtime.cwd, cfg.hydra.runtime.output_dir = "/given", "/run"
        cfg.hydra.mode = mode
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    return hydra_job(cfg)


def test_so_do_those_of_ones_own_files(composer, monkeypatch):
    text = composer.compose(
        ["hydra.job.chdir=true", "data=text", "data.path=a", "data.test=b/*.md"]
    )
    run_in(text, monkeypatch)
    assert (text.data.path, text.data.test) == ("/given/a", "/given/b/*.md")
    assert text.data.vocabulary == "characters" and text.data.validation == 0.1
    table = composer.compose(
        ["hydra.job.chdir=true", "data=table", "data.path=/a", "data.target=y",
         "data.splits.test=b"]
    )  # fmt: skip
    run_in(table, monkeypatch)
    assert table.data.path == "/a" and table.data.target == "y"
    assert table.data.splits == {"validation": 0.1, "test": "/given/b"}
    source = composer.compose(
        ["hydra.job.chdir=true", "data=source", "data.files=[a,/b]"]
    )
    run_in(source, monkeypatch)
    assert source.data.files == ["/given/a", "/b"]
    column = ["hydra.job.chdir=true", "data=table", "data.path=a", "data.splits=fold"]
    by_column = composer.compose([*column, "data.target=y"])
    run_in(by_column, monkeypatch)
    assert by_column.data.splits == "fold"


@pytest.mark.parametrize("chdir", [True, False])
def test_relative_paths_begin_where_the_command_was_given(composer, chdir, monkeypatch):
    cfg = composer.compose(
        [
            f"hydra.job.chdir={chdir}", "checkpoint.resume=outputs/first",
            "data.data_dir=data", "data.name=./points", "compilation_cache='~/xla'",
            "data.manual_dir=/there", "+data.path=own/points.csv", "+data.paths=null",
            "+model.vocabulary_file=words", "+model.name=words",
        ]
    )  # fmt: skip
    composed = run_in(cfg, monkeypatch)
    assert str(composed.started) == "/given"  # whose repository is the user's
    given = "/given/" if chdir else ""
    assert cfg.checkpoint.resume == f"{given}outputs/first"
    assert cfg.data.data_dir == f"{given}data"
    assert cfg.data.name == (f"{given}points" if chdir else "./points")
    assert cfg.data.path == f"{given}own/points.csv" and cfg.data.paths is None
    assert cfg.model.vocabulary_file == f"{given}words" and cfg.model.name == "words"
    assert cfg.compilation_cache == "~/xla" and cfg.data.manual_dir == "/there"


@pytest.mark.parametrize("direction", ["minimize", "maximize", None])
def test_a_job_of_a_search_has_its_direction(composer, monkeypatch, direction):
    cfg = composer.compose([])
    if direction is not None:
        with open_dict(cfg.hydra):
            OmegaConf.set_readonly(cfg.hydra, False)
            cfg.hydra.sweeper = {"direction": direction}
    assert run_in(cfg, monkeypatch, "MULTIRUN").direction == direction
    assert run_in(cfg, monkeypatch).direction is None
