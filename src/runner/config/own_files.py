"""Mistakes in a user's file, such as an experiment."""

import re
from collections.abc import Collection

from omegaconf.errors import ValidationError

from runner.config import key_types

_FILE = r"In '(?P<group>\w+)/(?P<name>[^']+)'"
# How a file without `# @package _global_` is told: its keys are those of its group.
_UNDER_ITS_GROUP = re.compile(
    rf"{_FILE}(: Could not override '\w+@(?P=group)\.|.*Key '(?P=group)' not in '\w+')",
    re.DOTALL,
)
# How `optimizer: adamw` and `override optimizer: adamw` are told.
_WITHOUT_A_SLASH = re.compile(
    rf"{_FILE}: Could not (find|override) '(?P=group)/(?P<other>\w+)[/@](?P<choice>\w+)"
)


def explained(text: str, groups: Collection[str], sections: Collection[str]) -> str:
    """What Hydra's `text` means in such a file; empty if it is about another thing.

    Args:
      text: why a configuration can't be composed.
      groups: the names of all groups.
      sections: those of the configuration's sections.
    """
    found = _UNDER_ITS_GROUP.match(text)
    if found and f"{found['group']}s" not in sections:
        return (
            f"{found['group']}={found['name']}: the first line of its file must be "
            f"`# @package _global_`, as the configuration has no section "
            f"{found['group']}"
        )
    found = _WITHOUT_A_SLASH.match(text)
    if found and found["other"] in groups:
        choice = found["choice"] if found[3] == "find" else "NAME"
        return (
            f"{found['group']}={found['name']}: a choice of another group is written "
            f"`- override /{found['other']}: {choice}` in a file's defaults"
        )
    return ""


def refused(error: ValidationError, text: str, groups: Collection[str]) -> str:
    """A value of a user's file, as in `train: {epochs: ten}`, that has another type."""
    why = str(error).split("\n")[0]
    key, value = error.full_key or "", "=null" if "not Optional" in why else ""
    if found := re.match(r"Value '(.*)' of type", why):
        value = f"={found[1]}"
    if found := re.match(
        r"Merge error: \w+ is not a subclass of (\w+)\. value: (.*)", why
    ):
        key, value = key_types.section_of(found[1]), f"={found[2]}"
    file, wanted = re.match(_FILE, text), key_types.wanted(key)
    if not key or not wanted:
        return " ".join(text.split())
    named = f"{file['group']}={file['name']}: " if file else ""
    chosen = f"; `- override /{key}: NAME` in its defaults chooses a file"
    return f"{named}{key}{value} must be {wanted}{chosen if key in groups else ''}"
