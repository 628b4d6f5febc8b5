"""Paths are relative to where a command was given, wherever Hydra changes to."""

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from runner.config.hydra_job import hydra_job


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
    with open_dict(cfg.hydra):
        OmegaConf.set_readonly(cfg.hydra, False)
        cfg.hydra.runtime.cwd, cfg.hydra.runtime.output_dir = "/given", "/run"
        cfg.hydra.mode = "RUN"
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    hydra_job(cfg)
    given = "/given/" if chdir else ""
    assert cfg.checkpoint.resume == f"{given}outputs/first"
    assert cfg.data.data_dir == f"{given}data"
    assert cfg.data.name == (f"{given}points" if chdir else "./points")
    assert cfg.data.path == f"{given}own/points.csv" and cfg.data.paths is None
    assert cfg.model.vocabulary_file == f"{given}words" and cfg.model.name == "words"
    assert cfg.compilation_cache == "~/xla" and cfg.data.manual_dir == "/there"
