"""Changes in code and machine, and whether the same bits can be expected."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from runner.record.provenance import FACTS, PACKAGES, affects
from runner.settings import ROUNDING

# With these equal the same compiled program adds the same numbers in the same order.
BITS = (
    *(name for name, affects in PACKAGES.items() if affects & ROUNDING),
    *(fact.label or name for name, fact in FACTS.items() if fact.affects & ROUNDING),
)


class Fact(NamedTuple):
    """One fact that has changed, or may have."""

    name: str
    recorded: str
    here: str

    @property
    def decides(self) -> bool:
        """Whether the same bits can't be expected because of it."""
        return bool(self.name in BITS or affects(self.name) & ROUNDING)


def changed(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[Fact]:
    """The differences between two provenances; uncommitted changes always count."""
    then, now = _facts(recorded), _facts(here)
    facts = [
        Fact(name, then.get(name, "not recorded"), now.get(name, "none"))
        for name in now | then
    ]
    runner = (then.get("runner", "not recorded"), now.get("runner", "none"))
    found = [
        f
        for f in facts
        if (f.recorded != f.here or "uncommitted" in f.here)
        # The same repository, where runner is developed.
        and not (f.name == "your code" and f[1:] == runner)
    ]
    return found + [f for name in MAPPINGS for f in _entries(name, recorded, here)]


# Facts of which only what both have recorded is compared: not every process loads the
# same code.
MAPPINGS = ("packages", "module_digests", "environment")


def _entries(
    section: str, recorded: Mapping[str, Any], here: Mapping[str, Any]
) -> list[Fact]:
    then, now = recorded.get(section), here.get(section)
    if then is None or now is None:
        return []
    absent = FACTS[section].absent
    facts = [
        Fact(f"{section}.{name}", then.get(name) or absent, now.get(name) or absent)
        for name in now | then
        if not (section == "packages" and name in PACKAGES)
    ]
    return [f for f in facts if f.recorded and f.here and f.recorded != f.here]


def _facts(provenance: Mapping[str, Any]) -> dict[str, str]:
    texts = {
        "runner_git": _commit,
        "git": _commit,
        "devices": counted,
        "platform": _machine,
        "members": lambda members: members or 1,
        "changes": lambda changes: "; ".join(changes or []) or "none",
    }
    facts: dict[str, Any] = {}
    for name, fact in FACTS.items():
        value = provenance.get(name)
        if name == "packages":
            facts |= {package: (value or {}).get(package) for package in PACKAGES}
        elif fact.label:
            facts[fact.label] = texts[name](value) if name in texts else value
    return {k: str(v) for k, v in facts.items() if v is not None}


def _commit(git: Mapping[str, Any] | None) -> str | None:
    if not git or not git.get("commit"):
        return None
    return git["commit"][:12] + (" + uncommitted changes" if git.get("dirty") else "")


def counted(kinds: list[str] | None) -> str | None:
    """Device kinds with their counts, such as `2 x cpu`."""
    counts = Counter(kinds or []).items()
    return ", ".join(f"{count} x {kind}" for kind, count in counts) or None


def _machine(platform: str | None) -> str | None:
    """System and architecture: a new kernel or libc doesn't change XLA's code."""
    if not platform:
        return None
    known = re.search("x86_64|AMD64|aarch64|arm64|ppc64le|s390x|riscv64", platform)
    return f"{platform.split('-')[0]} {known[0]}" if known else platform
