"""What Hydra's own start does too slowly, and too strictly."""

import argparse
import re
import sys
from typing import Any, NoReturn

import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser

from runner.config.arguments import with_nearest
from runner.config.conf import conf_dir
from runner.errors import ConfigError

_composed = Hydra.get_mode
# Overrides that lead to a `hydra.mode` somewhere.
_LEADS = re.compile(r"hydra\.mode|hydra\.searchpath|hydra=|@hydra")


def quick_start() -> None:
    """Let Hydra compose a command line once, and read its files with libyaml.

    Hydra composes everything twice, the first time for `hydra.mode` alone, which takes
    a tenth of a second. Overrides may stand on both sides of a flag.
    """
    Hydra.get_mode = _mode
    # By its name: the package `hydra` has a function called `main`.
    module: Any = sys.modules["hydra.main"]
    module.get_args_parser = _parser
    # PyYAML's wheels have it; a build without libyaml does not.
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _parser() -> argparse.ArgumentParser:
    """Hydra's own, which takes overrides before flags, or after, but not both."""
    parser = get_args_parser()
    parser.parse_args = parser.parse_intermixed_args

    def refuse(message: str) -> NoReturn:
        raise ConfigError(
            with_nearest(f"{message}; --help shows what there is", parser)
        )

    parser.error = refuse
    return parser


def _mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """`hydra.mode`, or None if nothing sets it: then `-m`, or its absence, decides."""
    folder = conf_dir()
    places = {path.path for path in self.config_loader.get_search_path().get_path()}
    is_elsewhere = places != {"pkg://hydra.conf", str(folder), "structured://"}
    texts = (path.read_text("utf-8") for path in folder.rglob("*.yaml"))
    if (
        is_elsewhere
        or any(_LEADS.search(override) for override in overrides)
        or any("hydra" in text and re.search(r"\bmode\b", text) for text in texts)
    ):
        return _composed(self, config_name, overrides)
    return None
