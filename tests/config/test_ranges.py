"""Values that make no sense are refused before anything is loaded."""

import pytest
from omegaconf import OmegaConf

from helpers.shipped import NAMES
from runner.config.argument_ranges import RANGES
from runner.config.conf import conf_dir


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_an_optimizer_has_a_range(name):
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"optimizer/{name}.yaml"))
    numbers = {k for k, v in node.items() if type(v) in (int, float)}
    assert numbers - {"learning_rate"} <= set(RANGES["optimizer"])


@pytest.mark.parametrize("value", ["0", "1", "true", "off"])
def test_what_yaml_and_people_call_true_or_false_is_taken(composed, value):
    assert composed(f"train.profile={value}").train.profile is (value in ("1", "true"))
