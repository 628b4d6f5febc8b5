"""sweeps/*.yaml: what a W&B agent makes of them is a command line of runner's."""

from itertools import zip_longest
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import (
    create_sweep_command,
    create_sweep_command_args,
)

from runner.config.conf import conf_dir

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))


def values(parameter: dict) -> list:
    """All that a parameter lists, or the ends of its range."""
    ends = [parameter.get("min"), parameter.get("max")]
    listed = parameter.get("values") or ends
    assert None not in listed and not any(isinstance(v, list | dict) for v in listed)
    return listed


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_what_an_agent_runs_composes(path, composed):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["metric"] == {"name": composed().objective, "goal": "minimize"}
    command = create_sweep_command(sweep["command"])
    assert command[1:] == [
        "python",
        "-m",
        "runner",
        "wandb=online",
        "${args_no_hyphens}",
    ]
    names = list(sweep["parameters"])
    columns = [values(parameter) for parameter in sweep["parameters"].values()]
    for row in zip_longest(*columns):
        chosen = [
            column[0] if value is None else value
            for value, column in zip(row, columns, strict=True)
        ]
        args = {n: {"value": v} for n, v in zip(names, chosen, strict=True)}
        made = create_sweep_command_args({"args": args})["args_no_hyphens"]
        cfg = composed(*command[4:-1], *made)
        for name, value in zip(names, chosen, strict=True):
            if not (conf_dir() / name).is_dir():
                section, _, key = name.rpartition(".")
                assert (cfg[section] if section else cfg)[key] == value
            else:
                own = OmegaConf.load(conf_dir() / name / f"{value}.yaml")
                assert cfg[name]._target_ == own._target_


def test_the_schedules_are_all_of_them():
    (path,) = [path for path in SWEEPS if path.stem == "schedules"]
    listed = yaml.safe_load(path.read_text())["parameters"]["schedule"]["values"]
    assert set(listed) == {p.stem for p in (conf_dir() / "schedule").glob("*.yaml")}
