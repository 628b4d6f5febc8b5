"""YAML files that Hydra would ignore without a word."""

import importlib.resources
from collections.abc import Iterable
from pathlib import Path

from hydra.conf import ConfigSourceInfo

from runner.errors import ConfigError, few


def refuse_ignored(sources: Iterable[ConfigSourceInfo]) -> None:
    """Refuse a user's file with the name of another one, which Hydra finds first.

    Args:
      sources: where Hydra looks for files, in turn, as in
        `hydra.runtime.config_sources`.

    Raises:
      ConfigError: there are such files.
    """
    folders = [found for source in sources if (found := _folder(source)) is not None]
    if len({folder.resolve() for folder in folders}) <= _SHIPPED:
        return
    first: dict[Path, Path] = {}
    ignored = []
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            name = path.relative_to(folder)
            if not path.exists():  # a link to nowhere, as Emacs locks a file
                continue
            if not first.setdefault(name, path).samefile(path):
                ignored.append((path, name))
    if ignored:
        path, name = ignored[0]
        all_of_them = few(str(path) for path, _ in ignored)
        raise ConfigError(
            f"Hydra would ignore {all_of_them}: it finds {first[name]} first, which "
            f"has the same name. Rename yours, such as my_{path.name}, and choose it "
            f"with {_choice(name)}"
        )


_SHIPPED = 2  # Hydra's own folder and conf/


def _folder(source: ConfigSourceInfo) -> Path | None:
    if source.schema == "file":
        path = Path(source.path)
    elif source.schema == "pkg":
        try:
            path = Path(str(importlib.resources.files(source.path)))
        except ModuleNotFoundError:  # Hydra warns of it
            return None
    else:
        return None
    return path if path.is_dir() else None


def _choice(name: Path) -> str:
    group = name.parent.as_posix()
    mine = f"my_{name.stem}"
    return f"--config-name={mine}" if group == "." else f"{group}={mine}"
