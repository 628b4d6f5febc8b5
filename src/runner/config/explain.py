"""Explains Hydra's and OmegaConf's errors: one message with key, value and rule."""

import contextlib
import re
import sys
import traceback
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import (
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from runner.config import key_types, own_files
from runner.config.conf import conf_dir
from runner.config.plain import plain
from runner.config.users_code import raised
from runner.errors import (
    RENAMED,
    ConfigError,
    JobFailed,
    TrainingStopped,
    did_you_mean,
    few,
    no_such_key,
    one_of,
    spelled_like,
    with_words_of,
)
from runner.record.secrets import scrub, scrub_message
from runner.record.untrusted import printable
from runner.settings import GROUPS, Settings
from runner.trees import flatten

# Shown as one message. Anything else is a bug, ours or a user's: with its traceback.
MISTAKES = (
    ConfigError,
    TrainingStopped,
    JobFailed,
    HydraException,
    OmegaConfBaseException,
)


def failure(name: object, error: BaseException) -> str:
    """The message to print when the job `name` of a sweep fails."""
    return f"job {scrub(str(name))} failed:{reason(error)}"


def reason(error: BaseException, full: bool = False) -> str:
    """The text after the colon: one message, or a bug's traceback.

    Args:
      full: a traceback in any case.
    """
    with contextlib.suppress(AttributeError):  # an exception with slots
        error._runner_reported = True  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(error, MISTAKES) and not full:
        return f" {explain(error)}"
    if (theirs := raised(error)) and not full:
        return f" {safe(theirs)}"
    return "\n" + safe("".join(traceback.format_exception(error)))


def was_reported(error: BaseException) -> bool:
    """Whether `reason` has already reported `error`."""
    return getattr(error, "_runner_reported", False)


def safe(text: str) -> str:
    """`text` to show: without secrets, and with control characters as escapes."""
    return printable(scrub_message(text))


def explain(error: BaseException, overrides: Sequence[str] | None = None) -> str:
    """`error` as one message, safe to show.

    Errors of other libraries keep their own text.

    Args:
      overrides: those that Hydra got from Python; None: the command line.
    """
    return safe(_explained(error, overrides))


def _explained(error: BaseException, overrides: Sequence[str] | None) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    refused = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    sections = typing.get_type_hints(Settings)
    if why := own_files.explained(str(error), _groups(), sections):
        return why
    if isinstance(error, MissingConfigException):
        return _no_such_option(error)
    if isinstance(error, OverrideParseException):
        if Path(str(error.override)).exists():
            return (
                f"{error.override} is a place on disk, where key=value is expected; "
                "runner show, compare, replay and mirror take a run's folder"
            )
        why = str(error).split("\n")
        why = why[1] if why[0].startswith("Error parsing") else why[0]
        key, _, value = str(error.override).partition("=")
        quoted = f'{key}="{value}"' if value and '"' not in value else 'key="a, b"'
        return (
            f"{error.override} is not of the form key=value ({why}). Quote a value "
            f"that has spaces or any of =,[]{{}}() in it: '{quoted}'"
        )
    if isinstance(refused, OmegaConfBaseException):
        given = sys.argv[1:] if overrides is None else overrides
        return _refused(refused, error, given)
    if isinstance(error, ConfigCompositionException):
        if isinstance(error.__context__, ValidationError):
            return own_files.refused(error.__context__, str(error), _groups())
        return _not_composed(str(error), overrides is not None)
    if "Config group override must be" in str(error):
        return _not_a_name(error, sys.argv[1:] if overrides is None else overrides)
    return (
        " ".join(str(error).split())
        if isinstance(error, HydraException)
        else str(error)
    )


# Choices that come with an optional dependency.
_EXTRAS = {"hydra/sweeper/optuna": "optuna"}


def _groups() -> list[str]:
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def _no_such_option(error: MissingConfigException) -> str:
    file = error.missing_cfg_file or ""
    presets = file.startswith("experiment/")  # which has folders
    group, _, name = file.partition("/") if presets else file.rpartition("/")
    first = str(error).split("\n")[0]
    where = re.match(r"In '(?!config'|hydra/config')([^']*)'", first)
    choices = error.options
    if choices is None and not where:  # of a list, for which Hydra names none
        files = (conf_dir() / group).glob("*.yaml")
        choices = sorted(path.stem for path in files) or None
    if choices and presets:  # Hydra names none of those in folders
        files = (conf_dir() / group).glob("*/*.yaml")
        choices = [*choices, *sorted(f"{p.parent.name}/{p.stem}" for p in files)]
    if not group or choices is None:
        return first
    message = f"{where[1]}: " if where else ""
    if file in _EXTRAS:
        return (
            f"{group}={name} needs an extra: pip install "
            f"'jax-experiment-runner[{_EXTRAS[file]}]'"
        )
    options = ", ".join(choices) or "none yet"
    message += f"{group}={name} is not one of the choices of {group}: {options}."
    own = Path("conf", group, f"{name}.yaml")
    if own.is_file():
        return f"{message}\n{own} is there: add --config-dir conf"
    for folder in re.findall(r"path=file://(.+)", str(error)):
        if (own := Path(folder, group, f"{name}.yml")).is_file():
            return f"{message}\n{own} is there: name it {name}.yaml, as Hydra reads it"
    near = did_you_mean(name, choices) or one_of(_saying(name, group, choices))
    return message + _on_its_own_line(near)


def _saying(name: str, group: str, choices: Iterable[str]) -> list[str]:
    """Those of a group's choices, at most three, whose files have `name` as a word."""
    word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    files = {choice: conf_dir() / group / f"{choice}.yaml" for choice in choices}
    found = [c for c, f in files.items() if f.is_file() and word.search(f.read_text())]
    return found if len(found) <= 3 else []


def _on_its_own_line(suggestion: str) -> str:
    return suggestion and "\n" + suggestion.strip()


def _refused(
    refused: OmegaConfBaseException, error: BaseException, overrides: Sequence[str]
) -> str:
    key = refused.full_key or (str(refused.key) if refused.key is not None else "")
    text = str(refused).split("\n")[0]
    _, ours, why = text.partition("ConfigError raised while resolving interpolation: ")
    if ours:  # raised by one of our resolvers
        return why
    if "'${train.steps" in text:
        return (
            f"{key} depends on train.steps or train.steps_per_epoch, which are known "
            "only once the data is loaded; print=config shows every value"
        )
    if isinstance(refused, InterpolationKeyError):
        missing = text.split("'")[1]
        named = f"{key} refers to" if key else "something refers to"
        return f"{named} ${{{missing}}}, which the configuration doesn't have"
    if isinstance(refused, MissingMandatoryValue):
        return f"{key} must be given"
    if isinstance(refused, ValidationError):
        given = re.search(r"override [+~]*(.*)", str(error).split("\n")[0])
        wanted = key_types.wanted(key)
        if wanted:
            return f"{given[1] if given else key} must be {wanted}" + (
                "" if given else f": {text}"
            )
    parent = refused.parent_node
    is_key = refused.key is not None and isinstance(parent, DictConfig)
    if is_key and str(refused.key) not in map(str, parent):
        return _no_such_key(key, str(refused.key), parent, overrides)
    return f"{key}: {text}" if key and key not in text else text


# Keys of other programs, for which there is no key here: JAX decides by itself.
_OF_DEVICES = ("accelerator", "device", "devices", "platform")
_DEVICES = (
    "A run takes all devices that JAX finds: mesh.data=4 takes four of them, and the "
    "environment variable JAX_PLATFORMS=cpu, or cuda, lets JAX find those alone"
)


def _no_such_key(
    key: str, name: str, parent: DictConfig, overrides: Sequence[str]
) -> str:
    section = key.rpartition(".")[0]
    names = sorted(n for n in map(str, parent) if n != "hydra")
    shown = [n for n in names if not n.startswith("_")]
    suggestion = ""
    if not section and name in _OF_DEVICES:
        suggestion = _DEVICES
    elif section or name not in RENAMED:
        suggestion = (
            _elsewhere(section, name, parent)
            or did_you_mean(name, names)
            or one_of(_choices(key, overrides))
        )
    return no_such_key(section, name, shown) + _on_its_own_line(suggestion)


def _elsewhere(section: str, name: str, parent: DictConfig) -> str:
    """Where else in the configuration `name`, or a key with its words, is.

    A sentence, or nothing where it may be a key of `section` that is spelled wrong.
    """
    root: Any = parent
    while root._get_parent() is not None:
        root = root._get_parent()
    keys = [key for key in flatten(plain(root)) if not key.startswith("hydra.")]
    same = [key for key in keys if key.rpartition(".")[2] == name]
    if not same and spelled_like(name, map(str, parent)):
        return ""
    having: dict[str, list[str]] = {}
    for group in [section] if section else _groups():
        for file in sorted((conf_dir() / group).glob("*.yaml")):
            for key in re.findall(r"^\w+(?=:)", file.read_text("utf-8"), re.MULTILINE):
                having.setdefault(f"{group}.{key}", []).append(file.stem)

    def of_files(names: Iterable[str]) -> list[str]:
        return [f"{key}, which {few(having[key], 4)} have" for key in names]

    others = [k for k in having if k.rpartition(".")[2] == name and k not in same]
    if same or others:
        return f"Did you mean {' or '.join([*map(repr, same), *of_files(others)])}?"
    sections = {key.rpartition(".")[0] for key in keys} - {"", *GROUPS}
    elsewhere = [k for k in (*keys, *sections) if k.rpartition(".")[0] != section]
    found = did_you_mean(name, map(str, parent)) or did_you_mean(name, elsewhere)
    if not found and (likely := with_words_of(name, having, least=1.0)):
        return f"Did you mean {' or '.join(of_files(likely))}?"
    return found


def _choices(key: str, overrides: Iterable[str]) -> list[str]:
    """What gives a group the value that `overrides` give `key`: logger=wandb."""
    pairs = (text.lstrip("+~").partition("=") for text in overrides)
    values = [value.partition(",")[0] for name, _, value in pairs if name == key]
    found = [
        f"{group}={value}"
        for value in values
        if re.fullmatch(r"[\w-]+", value)
        for group in _groups()
        if (conf_dir() / group / f"{value}.yaml").is_file()
    ]
    return found if len(found) <= 3 else []


def _not_composed(text: str, from_python: bool) -> str:
    ambiguous = re.match(r"Ambiguous value for argument '(.*)'\n", text)
    if ambiguous:
        how = "run_sweep runs" if from_python else "add -m to run"
        return (
            f"{ambiguous[1]} is several values: {how} one job for each. A list is "
            "written key=[a,b], text with a comma 'key=\"a,b\"'"
        )
    twice = re.match(r"(\S+) appears more than|Multiple values for (.*?)\. ", text)
    if twice:
        group = twice[1] or twice[2]
        return (
            f"{group} has a choice already; {group}=... without a + changes it, as "
            f"`- override /{group}: ...` does in the defaults of a file"
        )
    nowhere = re.match(
        r"In '(.+)/(.+?)'.*Key '(.+?)' not in '.+'\n\s*full_key: (\S+)", text, re.DOTALL
    )
    if nowhere:
        group, name, key, full = nowhere.groups()
        if key == group:
            return (
                f"+{group}={name} has no place in the configuration; one is given as "
                f"in +{group}@{group}s.{name}={name}"
            )
        section, _, _ = full.rpartition(".")
        schema = key_types.schema(section)
        names = sorted(typing.get_type_hints(schema)) if schema else []
        suggestion = _on_its_own_line(did_you_mean(key, names))
        return f"{group}={name}: {no_such_key(section, key, names)}{suggestion}"
    lines = [line.strip() for line in text.split("\n")]
    message = " ".join(line for line in lines if line and "https://" not in line)
    unknown = re.match(r"Could not (?:override|append) '?([^'@]+)'", text)
    if unknown and unknown[1] not in _groups() and "Did you mean" not in message:
        return message + _on_its_own_line(did_you_mean(unknown[1], _groups()))
    return message


def _not_a_name(error: BaseException, overrides: Sequence[str]) -> str:
    """Name the group that got a number, a mapping or null, which Hydra doesn't."""
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:  # an option, such as -m
            continue
        if override.is_delete():
            continue
        group, value = override.key_or_group, override.value()
        if not group:
            return f"{text} is not of the form key=value"
        names = value.list if isinstance(value, ChoiceSweep) else [value]
        is_group = group.partition("/")[0] in [*_groups(), "hydra"]
        if is_group and any(isinstance(x, float | int | dict | None) for x in names):
            files = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
            known = f": {few(files)}" if files else ""
            return f"{text} must be the name of a file in the group {group}{known}"
    return str(error)
