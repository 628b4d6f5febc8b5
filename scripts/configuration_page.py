"""Write docs/configuration.md: every key of conf/, with what another value affects.

    python scripts/configuration_page.py

Meanings are the comments of the YAML files; ranges and effects are those of
`runner.settings`.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hydra_plugins.grid_sweeper import GridSweeper, GridSweeperConf
from hydra_plugins.packed_launcher import PackedLauncherConf
from runner.config.conf import conf_dir
from runner.settings import GROUPS, SETTINGS, Affects

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
EFFECTS = {
    Affects.PROGRAM: "the compiled program",
    Affects.NUMBERS: "what a run computes: an argument of its program, or its data",
    Affects.LENGTH: "how many steps it takes",
    Affects.ROUNDING: "the last bits of its numbers",
    Affects.RECORD: "what is written or shown about it",
    Affects.MACHINE: "where it runs, and where its files are",
    Affects.CHECKS: "whether it is known to have computed what it says",
}
# The sections of conf/config.yaml; "" is what stands in none.
OWN = ("", "seeds", "train", "checkpoint")
# The other sections are groups: which file of each has all keys.
FILES = {
    "precision": "float32",
    "mesh": "single",
    "distributed": "auto",
    "wandb": "offline",
    "cluster": "none",
}
# The groups whose choices have keys of their own, and the settings that these are in.
OPEN = {group: group for group in GROUPS} | {
    group: group if group in SETTINGS else f"{group}s"
    for group in sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    if group not in {*GROUPS, *FILES, "experiment", "debug", "sweep"}
}
_LINE = re.compile(r"( *)([\w.]+):(?: ([^#]*|'[^']*'|\"[^\"]*\"))??(?: *# (.*))?$")
_TEXT = object()  # a line of a text, which looks like a key


class Key(NamedTuple):
    """A key of a YAML file.

    Attributes:
      name: dotted.
      default: as YAML on one line; None if it is a section with keys of its own.
      meaning: its comment.
    """

    name: str
    default: str | None
    meaning: str


def keys(path: Path) -> Iterator[Key]:
    """The keys of a file whose keys are explained beside or above them."""
    values = yaml.safe_load(path.read_text())
    above: list[str] = []
    first = head(path)
    inside: list[tuple[int, str]] = []  # the sections of a line, and their indents
    for line in path.read_text().splitlines():
        match = _LINE.fullmatch(line)
        if line.lstrip().startswith("# "):
            above.append(line.lstrip()[2:])
            continue
        if match and not line.lstrip().startswith("- "):
            indent, name, _, beside = match.groups()
            inside = [(i, n) for i, n in inside if i < len(indent)]
            inside.append((len(indent), name))
            parts = [n for _, n in inside]
            value: Any = values
            for part in parts:
                value = value.get(part, _TEXT) if isinstance(value, dict) else _TEXT
            has_keys = isinstance(value, dict) and value != {}
            meaning = " ".join(above).removeprefix(first)
            meaning = " ".join([*meaning.split(), *([beside] if beside else [])])
            if value is not _TEXT:
                default = None if has_keys else _flow(value)
                yield Key(".".join(parts), default, meaning)
        above = []


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("\n...").strip().strip("'")


def head(path: Path) -> str:
    """The comment that a file begins with, up to an example."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("# ") or line.startswith("# @package"):
            if lines or not line.startswith("# @package"):
                break
            continue
        lines.append(line[2:])
    return " ".join(lines)


def _effects(name: str) -> str:
    found = SETTINGS[name].affects
    return ", ".join(str(e.name).lower() for e in EFFECTS if e in found)


def _escaped(text: str) -> str:
    """Text in a cell of a table: no cell ends early, no pattern becomes emphasis."""
    parts = re.split("(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(
        part if part[:1] == "`" else re.sub(r"([*_<>\[\]])", r"\\\1", part)
        for part in parts
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(found: list[Key], prefix: str = "") -> Iterator[str]:
    yield _row("key", "default", "meaning", "affects")
    yield "|---|---|---|---|"
    for key in found:
        name = prefix + key.name
        rule = SETTINGS[name].rule
        must = f" *Must be {_escaped(rule)}.*" if rule else ""
        default = "" if key.default is None else f"`{key.default}`"
        meaning = _escaped(key.meaning) + must
        yield _row(f"`{name}`", default.replace("|", "\\|"), meaning, _effects(name))
    yield ""


def _choices(group: str) -> Iterator[str]:
    yield _row("choice", "what it is", "what it sets")
    yield "|---|---|---|"
    folder = conf_dir() / group
    for path in sorted(folder.glob("*.yaml")):
        values = yaml.safe_load(path.read_text()) or {}
        told = [
            f"`{name}: {_flow(value)}`".replace("|", "\\|")
            for name, value in values.items()
            if name not in ("_target_", "defaults")
        ]
        told = ", ".join([*_chosen(group, values.get("defaults", [])), *told])
        what = _escaped(head(path))
        if "_target_" in values:
            what += f" (`{values['_target_']}`)"
        yield _row(f"`{path.stem}`", what.strip(), told)
    yield ""


def _chosen(group: str, defaults: list[Any]) -> Iterator[str]:
    """The choices that a file of `group` makes itself."""
    for entry in defaults:
        if isinstance(entry, str):
            if entry != "_self_":
                yield f"what `{entry}` sets"
            continue
        for name, choice in entry.items():
            other, _, package = name.removeprefix("override ")[1:].partition("@")
            where = package.removeprefix("_global_.")
            if where == package:
                where = f"{group}.{package}"
            yield (
                f"`{other}={choice}`"
                if other == where
                else f"`{other}@{where}={choice}`"
            )


def _by_default() -> dict[str, str]:
    """The choice of each group that has one in conf/config.yaml."""
    defaults = yaml.safe_load((conf_dir() / "config.yaml").read_text())["defaults"]
    chosen = [part for part in defaults if isinstance(part, dict)]
    return {group: choice for part in chosen for group, choice in part.items()}


def _own() -> Iterator[str]:
    """What conf/config.yaml has, and the groups whose keys are runner's own."""
    chosen = _by_default()
    own = [key for key in keys(conf_dir() / "config.yaml") if key.name in SETTINGS]
    for section in OWN:
        first = [key.name.partition(".")[0] for key in own]
        inside = [
            key
            for key, name in zip(own, first, strict=True)
            if (name if name in OWN else "") == section
        ]
        yield from (f"## {f'`{section}`' if section else 'The whole run'}", "")
        yield from _table(inside)
    for group, base in FILES.items():
        yield from (f"## `{group}`", "", f"By default `{group}={chosen[group]}`.", "")
        yield from _choices(group)
        folder = conf_dir() / group
        changed = yaml.safe_load((folder / f"{chosen[group]}.yaml").read_text())
        yield from _table(
            [
                key._replace(default=_flow(changed[key.name]))
                if key.name in changed
                else key
                for key in keys(folder / f"{base}.yaml")
                if f"{group}.{key.name}" in SETTINGS
            ],
            f"{group}.",
        )


def _open() -> Iterator[str]:
    """The groups whose choices name a function, which has the keys."""
    chosen = _by_default()
    for group, setting in OPEN.items():
        yield from (f"## `{group}`", "")
        default = f"By default `{group}={chosen[group]}`. " if group in chosen else ""
        yield from (f"{default}Affects {_effects(setting)}.", "")
        yield from _choices(group)
        explained = [
            _row(f"`{path.stem}`", f"`{group}.{key.name}`", _escaped(key.meaning))
            for path in sorted((conf_dir() / group).glob("*.yaml"))
            for key in keys(path)
            if key.meaning
            and key.name.partition(".")[0] not in ("_target_", "defaults")
        ]
        if explained:
            yield from (
                _row("choice", "key", "meaning"),
                "|---|---|---|",
                *explained,
                "",
            )


def _hydra() -> Iterator[str]:
    """The keys of the sweeper and the launcher, which are explained where they act."""
    for section, schema, told in (
        ("hydra.sweeper", GridSweeperConf, GridSweeper),
        ("hydra.launcher", PackedLauncherConf, PackedLauncherConf),
    ):
        # Python 3.13 takes the indentation of a docstring away, others keep it.
        text = inspect.cleandoc(told.__doc__ or "")
        parts = re.split(r"^ *(\w+): ", text, flags=re.MULTILINE)[1:]
        meanings = {
            name: " ".join(text.partition("\n\n")[0].split())
            for name, text in zip(parts[::2], parts[1::2], strict=True)
        }
        yield from (f"## `{section}`", "", "For sweeps; see [Sweeps](sweeps.md).", "")
        yield from (_row("key", "default", "meaning"), "|---|---|---|")
        for name, value in vars(schema()).items():
            if name in meanings:
                text = _escaped(meanings[name])
                yield _row(f"`{section}.{name}`", f"`{_flow(value)}`", text)
        yield ""


def page() -> str:
    """The text of the page."""
    lines = [
        "# Configuration",
        "",
        "Every key there is, with its default, its meaning, and what another value",
        "affects. The groups `sweep`, `experiment` and `debug` have no keys of their",
        "own: they set these, and [Choosing](choosing.md) lists their choices.",
        "This page is made from `conf/` and `src/runner/settings.py` by",
        "`python scripts/configuration_page.py`.",
        "",
        "| affects | |",
        "|---|---|",
        *(_row(str(e.name).lower(), text) for e, text in EFFECTS.items()),
        "",
        "Jobs of a sweep that differ only in *numbers* share one program. What affects",
        "only *record* and *machine* changes no result, and may differ between runs",
        "that are compared. What affects *length*, *record* or *machine*, and not",
        "*numbers*, may change when a run is [resumed](checkpoints.md).",
        "",
        *_own(),
        *_open(),
        *_hydra(),
    ]
    return re.sub(r" +$", "", "\n".join(lines), flags=re.MULTILINE).strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
