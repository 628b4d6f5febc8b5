"""Plain values of a configuration are those that OmegaConf gives, only sooner."""

import enum
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from runner.config import conf
from runner.config.plain import plain, without_interpolations


class Colour(enum.Enum):
    RED = 1


@dataclass
class Strange:
    colour: Colour = Colour.RED
    either: int | str = 3
    refers: int | str = "${either}"
    names: dict[Colour, int] = field(default_factory=lambda: {Colour.RED: 1})
    missing: int = MISSING
    missing_section: dict[str, int] = MISSING
    nothing: dict[str, int] | None = None
    section: dict[str, Any] = "${names}"  # pyright: ignore[reportAssignmentType]
    several: list[Any] = field(default_factory=lambda: [1, [2, {"a": "${either}"}]])
    raw: bytes = b"\x00"


@pytest.mark.parametrize("preset", ["", "data=text", "model=gpt2", "-whole"])
def test_plain_values_are_those_of_omegaconf(preset):
    conf.register()
    with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        given = [preset] if "=" in preset else []
        made = compose("config", given, return_hydra_config=preset == "-whole")
    assert plain(made) == OmegaConf.to_container(made, enum_to_str=True)
    with open_dict(made):
        made.pop("hydra", None)  # it isn't resolved before a job has a folder
    made.train.steps = made.train.steps_per_epoch = 22  # as the data say
    assert without_interpolations(made) == OmegaConf.to_container(made, resolve=True)


def test_plain_values_of_unusual_nodes_are_those_of_omegaconf():
    made = OmegaConf.structured(Strange)
    assert plain(made) == OmegaConf.to_container(made, enum_to_str=True)
    resolved = OmegaConf.to_container(made, resolve=True)
    assert repr(without_interpolations(made)) == repr(resolved)
    with pytest.raises(MissingMandatoryValue, match="missing"):
        without_interpolations(made, complete=True)
    made.missing, made.missing_section = 1, {}
    complete = OmegaConf.to_container(made, resolve=True, throw_on_missing=True)
    assert repr(without_interpolations(made, complete=True)) == repr(complete)
    made.several[1][1].a = "${nowhere}"
    with pytest.raises(InterpolationKeyError, match=r"several\[1\]\[1\]\.a"):
        without_interpolations(made)
    made.several[1] = r"\${either}"  # escaped
    assert without_interpolations(made)["several"][1] == "${either}"
    refers = OmegaConf.create({"own": {"a": 1}, "its": "${own}", "none": None})
    assert without_interpolations(refers) == {
        "own": {"a": 1},
        "its": {"a": 1},
        "none": None,
    }
    for whole in (OmegaConf.create("???"), DictConfig(None)):
        assert without_interpolations(whole) == OmegaConf.to_container(
            whole, resolve=True
        )
