"""What config/ replaces in Hydra, or calls there, is as it was then."""

import inspect
import sys

import hydra.main  # noqa: F401
import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins import basic_sweeper  # noqa: F401
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core import utils
from omegaconf import OmegaConf, grammar_parser
from omegaconf._utils import OmegaConfDumper

# Who depends on it, what it is, and its parameters.
USED = [
    ("quick_start", Hydra.get_mode, "self config_name overrides"),
    ("quick_start", get_args_parser, ""),
    ("shown", Hydra.show_cfg, "self config_name overrides cfg_type package resolve"),
    ("whole_sweep", ConfigLoaderImpl.load_configuration,
     "self config_name overrides run_mode from_shell validate_sweep_overrides"),
    ("hydra_files", Hydra.compose_config,
     "self config_name overrides run_mode with_log_configuration from_shell "
     "validate_sweep_overrides"),
    ("hydra_files", utils._save_config, "cfg filename output_dir"),
    ("hydra_files", config_loader_impl.get_overrides_dirname,
     "overrides exclude_keys item_sep kv_sep"),
    ("hydra_files", OmegaConf.save, "config f resolve"),
    ("hydra_files", OmegaConfDumper.str_representer, "dumper data"),
    ("conf", grammar_parser.parse, "value parser_rule lexer_mode"),
    ("sweep.compose", ConfigLoaderImpl._apply_overrides_to_config, "overrides cfg"),
]  # fmt: skip


@pytest.mark.parametrize(("user", "function", "parameters"), USED)
def test_a_function_is_as_expected(user, function, parameters):
    found = " ".join(inspect.signature(function).parameters)
    assert found == parameters, (
        f"{function.__module__}.{function.__qualname__} takes other arguments in this "
        f"version of Hydra: read what it does now, adapt runner's {user}, which "
        "replaces or calls it, and then this table"
    )


# Where a function that is replaced is called, by the name under which it is.
CALLED = [
    ("hydra.main", "get_args_parser()"),
    ("hydra._internal.utils", "hydra.get_mode("),
    ("hydra._internal.utils", "show_cfg("),
    ("hydra._internal.hydra", ".load_configuration("),
    ("hydra._internal.hydra", "self.compose_config("),
    ("hydra.core.utils", "_save_config("),
    ("hydra._internal.config_loader_impl", "get_overrides_dirname("),
    ("hydra._internal.core_plugins.basic_sweeper", "OmegaConf.save("),
    ("omegaconf.base", "parse(_get_value("),
]


@pytest.mark.parametrize(("module", "call"), CALLED)
def test_what_replaces_it_is_called(module, call):
    assert call in inspect.getsource(sys.modules[module]), (
        f"{module} of this version of Hydra doesn't call {call.strip('(.)')} any more: "
        "what runner.config puts in its place would do nothing, in silence"
    )


def test_a_result_is_a_property_that_is_asked_for():
    assert isinstance(utils.JobReturn.return_value, property)
    assert "ret.return_value" in inspect.getsource(sys.modules["hydra._internal.hydra"])
