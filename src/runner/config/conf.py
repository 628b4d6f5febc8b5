"""The configuration: its folder, its schema, and the form in which it is recorded."""

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.conf import ConfigSourceInfo
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, base
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from runner.config.ignored_files import refuse_ignored
from runner.config.plain import plain, without_interpolations
from runner.config.ranges import strict_booleans
from runner.config.rank import by_process
from runner.config.yaml_files import explain_files
from runner.errors import ConfigError, did_you_mean
from runner.record.secrets import named, remember_environment
from runner.settings import Settings
from runner.trees import differences

LONGEST_NAME = 120  # people read it
_MOST_BYTES = 255 - 9  # in UTF-8, of what a file system takes, beside a hash


def conf_dir() -> Path:
    """The folder of YAML files: in an installed package, beside src in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def search_path(folder: Path | None) -> list[str]:
    """The overrides that do what `--config-dir` does on Hydra's own command line.

    Raises:
      ConfigError: it is no folder, or a file in it has the name of a shipped one.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is not a folder")
    refuse_ignored(
        ConfigSourceInfo(path, schema, "")
        for path, schema in (
            ("hydra.conf", "pkg"),
            (str(conf_dir()), "file"),
            (str(folder), "file"),
        )
    )
    return [f"hydra.searchpath=[{quoted(f'file://{folder.resolve()}')}]"]


def quoted(value: object) -> str:
    """`value` as text in an override of Hydra's, whatever characters it has."""
    text = str(value).replace("'", r"\'")
    return f"'{text}'"


def register() -> None:
    """Register the schema with Hydra and the resolvers of conf/ with OmegaConf."""
    for name in ("XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        if os.environ.get(name) == "":  # as if it weren't set, as XDG's rules say
            del os.environ[name]
    explain_files()
    parse_once()
    strict_booleans()
    # Hydra copies the store at each of its questions, 160 times for --help, though what
    # it loads is a copy anyway.
    store: Any = ConfigStore
    store.__deepcopy__ = lambda self, memo: self
    ConfigStore.instance().store(name="schema", node=Settings)
    for name, resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


@functools.cache
def parse_once() -> None:
    """Let OmegaConf parse the text of an interpolation once, not for each reading."""
    nodes: Any = base
    nodes.parse = functools.lru_cache(nodes.parse)


def environment(*arguments: Any) -> Any:
    """OmegaConf's own `${oc.env:NAME,default}`; no message shows what it reads."""
    value = oc.env(*arguments)
    if arguments[0] in os.environ and isinstance(value, str):
        remember_environment(arguments[0], value)
    return value


def folder_name(name: str) -> str:
    """`name` as a folder name. A hash stands for what is replaced or cut off."""
    safe = re.sub(r"[^\w.=,+-]", "_", named(name)).strip(".")
    safe = safe[:LONGEST_NAME] or "default"
    safe = safe.encode()[:_MOST_BYTES].decode(errors="ignore")  # not within a character
    if safe == name or not name:
        return safe
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def case(value: Any, *pairs: Any) -> Any:
    """`${case:VALUE,one,1,two,2}`: the item after VALUE among the pairs.

    Raises:
      ConfigError: VALUE isn't among them.
    """
    table = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if value not in table:
        names = ", ".join(map(str, table))
        raise ConfigError(
            f"this preset has no value for {value}; it has {names}."
            + did_you_mean(str(value), map(str, table))
        )
    return table[value]


def fraction_of(steps: int, fraction: float) -> int:
    """`fraction` of `steps`, rounded down, but at least one step."""
    return max(1, int(steps * fraction))


def one_length(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Let a length on the command line replace one preset in the other unit."""
    given = {o.split("=")[0].lstrip("+") for o in overrides}
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"train.{one}" in given and f"train.{other}" not in given:
            if cfg.train[one] is not None:
                cfg.train[other] = None


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` resolved into plain values, as config.json and W&B get it.

    A value that comes from an environment variable, directly or through another key,
    stays the interpolation that names it: it may be a secret, and it isn't portable.

    Raises:
      ConfigError: a value is another one each time that it is read.
    """
    raw = plain(cfg)
    found = without_interpolations(cfg, complete=True)
    # Resolving everything again in another environment is exact, but takes longer than
    # all the rest. Usually nothing refers to a value from the environment.
    leaves = list(_leaves(raw, ()))
    if any(_USERS_RESOLVER.search(text) for _, text in leaves):
        _refuse_changing(found, without_interpolations(cfg))
    names = {name for path, text in leaves if "${oc.env:" in text for name in path}
    others = [text for _, text in leaves if "${" in text and "${oc.env:" not in text]
    if not any(name in text or "${${" in text for name in names for text in others):
        return cast(dict[str, Any], _recorded(raw, found, found, None))
    here = OmegaConf.create(raw)  # untyped, like the other
    elsewhere = OmegaConf.create(_without_environment(raw))
    return cast(dict[str, Any], _recorded(raw, found, here, elsewhere))


_RESOLVERS = {
    "fraction_of": fraction_of,
    "case": case,
    "folder_name": folder_name,
    "by_process": by_process,
    "oc.env": environment,
}
# One that neither OmegaConf nor Hydra nor runner has registered.
_KNOWN = "|".join(["now", "hydra", "python_version", *_RESOLVERS])
_USERS_RESOLVER = re.compile(rf"\$\{{(?!oc\.|(?:{_KNOWN}):)[\w.]+:")


def _refuse_changing(found: Any, again: Any) -> None:
    """Refuse a random resolver, whose value would be recorded once and used twice."""
    for key, one, other in differences(found, again):
        if one == one or other == other:  # else both are NaN
            raise ConfigError(
                f"{key} is another value each time that it is read ({one}, then "
                f"{other}), so none of them could be recorded as the one that ran: "
                "register its resolver with use_cache=True"
            )


def _leaves(raw: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The strings in `raw`, each with the names that lead to it."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(raw, list):
        for value in raw:
            yield from _leaves(value, path)
    elif isinstance(raw, str):
        yield path, raw


def _without_environment(raw: Any) -> Any:
    """`raw` with a placeholder for each value that reads the environment."""
    if isinstance(raw, dict):
        return {key: _without_environment(value) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_without_environment(value) for value in raw]
    is_environment = isinstance(raw, str) and "${oc.env:" in raw
    return "<the environment>" if is_environment else raw


def _recorded(raw: Any, plain: Any, here: Any, elsewhere: Any) -> Any:
    """`plain`, but the text of `raw` where `here` and `elsewhere` differ.

    `elsewhere` is None if only values that read the environment can differ.
    """

    def value(key: Any) -> Any:
        text = raw[key]
        if isinstance(text, dict | list):
            there = elsewhere and elsewhere[key]
            return _recorded(text, plain[key], here[key], there)
        if not isinstance(text, str) or "${" not in text:
            return plain[key]
        if elsewhere is None:
            return text if "${oc.env:" in text else plain[key]
        try:
            same = here[key] == elsewhere[key]
        except OmegaConfBaseException:  # a resolver that refuses the other value
            same = False
        return plain[key] if same else text

    if isinstance(raw, dict):
        return {key: value(key) for key in raw}
    return [value(index) for index in range(len(raw))]
