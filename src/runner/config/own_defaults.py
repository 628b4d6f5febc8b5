"""Mistakes in a user's file that changes several sections, such as an experiment."""

import re
from collections.abc import Collection

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
