"""Which functions a recorded configuration may name without being trusted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.config.conf import conf_dir
from runner.config.instantiate import target_names
from runner.errors import ConfigError
from runner.saved.record import Recorded

# A data set's class, which `data.name` may name as pkg.module:Class.
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAMED = re.compile(r"""(?:_target_|name): *["']?([\w.:]+)""")


def check_targets(recorded: Recorded, config_dir: Path | None, how: str) -> None:
    """Refuse a record that names functions that today's configuration doesn't.

    Whoever wrote the record would decide what is imported and called.

    Args:
      config_dir: a folder of YAML files, besides conf/.
      how: what the user may do to have them imported.

    Raises:
      ConfigError: names them.
    """
    folders = [conf_dir(), *([config_dir] if config_dir else [])]
    files = [path for folder in folders for path in folder.rglob("*.yaml")]
    text = "\n".join(
        path.read_text(encoding="utf-8", errors="replace")  # Hydra explains those
        for path in files
        if path.exists()  # unlike a link to nowhere, as Emacs locks a file
    )
    known = set(_NAMED.findall(text))
    named = {*map(str, target_names(recorded.config)), *_classes(recorded.config)}
    unknown = sorted(named - known)
    if unknown:
        raise ConfigError(
            f"{recorded.source} names functions that conf/ doesn't: "
            f"{', '.join(unknown)}. {how}"
        )


def _classes(node: Any, key: str = "") -> Iterator[str]:
    """Each name of a class in a plain configuration."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _classes(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _classes(value, key)
    elif key == "name" and isinstance(node, str) and _CLASS.fullmatch(node):
        yield node
