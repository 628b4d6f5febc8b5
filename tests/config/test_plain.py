"""Plain values of a configuration are those that OmegaConf gives, only sooner."""

import enum
from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import MISSING, OmegaConf

from runner.config import conf
from runner.config.plain import plain


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


def test_plain_values_of_unusual_nodes_are_those_of_omegaconf():
    made = OmegaConf.structured(Strange)
    assert plain(made) == OmegaConf.to_container(made, enum_to_str=True)
