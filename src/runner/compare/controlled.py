"""Whether a comparison is controlled: what differs besides the factor asked about.

flax #4087 blamed a framework for what an optimizer did: its two runs differed in both.
"""

import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.columns import (
    DEVICES,
    INITIAL,
    ORDER,
    PROBE,
    copies,
    determined,
    distinct,
    ignored,
    is_fact,
    own_keys,
    texts,
    varying,
)
from runner.compare.load import CHOICES, natural

_FACTS = {
    PROBE: "optimizer probe",
    INITIAL: "initial parameters",
    ORDER: "data order",
    DEVICES: "devices",
}
# Relative. Probes are rounded to six digits, where two frameworks may part by one.
_PROBE_TOLERANCE = 2e-5
# What an optimizer does is its own, its schedule's and of what `train` puts around it.
_NAMED = ("optimizer", "schedule", "train")


class Key(NamedTuple):
    """A key that differs between runs.

    Attributes:
      name: such as "optimizer.b1" or "optimizer probe".
      role: "factor" (what was asked about), "consequence" (follows from the factor),
        "tuned" (tried within the groups), "crossed" (the same values in every group) or
        "confounder" (differs between the groups where nothing else should).
      values: up to eight of them as text, in natural order; `distinct` in all.
      by_group: {group: values} of a confounder.
    """

    name: str
    role: str
    values: tuple[str, ...]
    distinct: int
    by_group: dict[str, tuple[str, ...]]


class Control(NamedTuple):
    """The verdict of the check.

    Attributes:
      controlled: no confounder and no impostor.
      impostors: sentences about runs called the same whose optimizer did not the same.
      keys: all that vary, confounders first.
      unknown: facts that not every run recorded, so that they could not be checked.
      unmatched: names of runs without a partner in some other group.
    """

    controlled: bool
    impostors: tuple[str, ...]
    keys: tuple[Key, ...]
    unknown: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def confounders(self) -> tuple[Key, ...]:
        return tuple(key for key in self.keys if key.role == "confounder")


def control(table: pl.DataFrame, by: str, tuned: Sequence[str]) -> Control:
    """Check a comparison of the runs in `table` by the column `by`.

    A run's partner in another group has the same value of every key but the factor's
    own. Where two groups have no partners at all, the keys in which the nearest runs
    differ are confounders; where they have, whatever was recorded of the partners
    (versions, devices, ...) and differs is one.

    Args:
      tuned: see `tuned_keys`.
    """
    own, references = own_keys(table, by), copies(table)
    keys = [k for k in varying(table) if references.get(k) not in tuned]
    free = [k for k in keys if k not in own and k not in references]
    confounded, unmatched = _match(table, by, free)
    confounded = _folded(table, confounded)
    follows = {*keys} - {*_folded(table, keys)}
    roles = {key: "crossed" for key in free if key not in follows}
    roles |= dict.fromkeys([k for k in keys if k in own], "consequence")
    roles |= dict.fromkeys(tuned, "tuned") | dict.fromkeys(confounded, "confounder")
    roles |= {by: "factor"} if by in keys else {}
    order = ("confounder", "factor", "tuned", "crossed", "consequence")
    names = sorted(roles, key=lambda k: (order.index(roles[k]), k not in CHOICES))
    impostors = _impostors(table)
    return Control(
        controlled=not confounded and not impostors,
        impostors=impostors,
        keys=tuple(_key(table, by, name, roles[name]) for name in names),
        unknown=_unknown(table),
        unmatched=unmatched,
    )


def _match(
    table: pl.DataFrame, by: str, free: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The confounders among `free`, and the runs that lack a partner."""
    config = [k for k in free if not is_fact(k)]
    facts = [k for k in free if is_fact(k)]
    config_codes, fact_codes = _codes(table, config), _codes(table, facts)
    found: set[str] = set()
    unmatched: set[int] = set()
    for a, b in itertools.combinations(_members(table, by).values(), 2):
        # Arrays [a, b, key]. Of equal configs the nearer one has more facts in common.
        apart, facts_apart = _apart(config_codes, a, b), _apart(fact_codes, a, b)
        distance = apart.sum(-1) * (len(facts) + 1) + facts_apart.sum(-1)
        near = [(i, int(j)) for i, j in enumerate(distance.argmin(1))]
        near += [(int(i), j) for j, i in enumerate(distance.argmin(0))]
        partners = [(i, j) for i, j in near if not apart[i, j].any()]
        unmatched |= set(a) - {a[i] for i, _ in partners}
        unmatched |= set(b) - {b[j] for _, j in partners}
        for pair in partners or near:
            found |= {k for k, d in zip(config, apart[pair], strict=True) if d}
            found |= {k for k, d in zip(facts, facts_apart[pair], strict=True) if d}
    runs = table["run"].to_list()
    return [k for k in free if k in found], tuple(runs[i] for i in sorted(unmatched))


def _members(table: pl.DataFrame, by: str) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for index, value in enumerate(texts(table[by])):
        members.setdefault(value, []).append(index)
    return dict(sorted(members.items(), key=lambda item: natural(item[0])))


def _apart(codes: np.ndarray, a: list[int], b: list[int]) -> np.ndarray:
    """[a, b, key]: whether they differ; what is unknown (-1) differs from nothing."""
    left, right = codes[a][:, None], codes[b][None]
    return (left != right) & (left >= 0) & (right >= 0)


def _codes(table: pl.DataFrame, names: list[str]) -> np.ndarray:
    """[run, key]: equal numbers for equal values, -1 for unknown facts."""
    codes = np.empty((table.height, len(names)), int)
    for column, name in enumerate(names):
        values = _probes(table) if name == PROBE else table[name].to_list()
        known: dict = {None: -1} if is_fact(name) else {}
        codes[:, column] = [known.setdefault(v, len(known)) for v in values]
    return codes


def _probes(table: pl.DataFrame, first: int = 0) -> list[int | None]:
    """For each run a number of its probe; the same within a tolerance."""
    seen: list[np.ndarray] = []
    known: dict[str | None, int | None] = {None: None}
    values = table[PROBE].to_list()
    for text in values:
        if text in known:
            continue
        probe = np.asarray(json.loads(text), float)
        same = (i for i, other in enumerate(seen) if _same(probe, other))
        known[text] = first + next(same, len(seen))
        seen.append(probe)
    return [known[text] for text in values]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    scale = np.abs(b).max(initial=0)
    atol = 1e-12 * scale if np.isfinite(scale) else 0
    return np.allclose(a, b, rtol=_PROBE_TOLERANCE, atol=atol, equal_nan=True)


def _folded(table: pl.DataFrame, confounded: list[str]) -> list[str]:
    """Without what follows from another of them: adam's b1 from the choice of adam."""
    follows = {INITIAL, ORDER} if "seed" in confounded else set()
    return [
        key
        for key in confounded
        if key not in follows
        and not (
            (group := key.split(".")[0]) in confounded
            and group != key
            and determined(table, key, [group])
        )
    ]


def _impostors(table: pl.DataFrame) -> tuple[str, ...]:
    if PROBE not in table:
        return ()
    names = [c for c in table.columns if c.split(".")[0] in _NAMED and not ignored(c)]
    called: dict[tuple, dict[int, str]] = {}
    for name, run, probe in zip(
        table.select(names).rows(), table["run"], _probes(table), strict=True
    ):
        if probe is not None:
            called.setdefault(name, {}).setdefault(probe, run)
    return tuple(
        f"{' and '.join(runs.values())} are called the same (optimizer="
        f"{name[names.index('optimizer')]}, with the same settings and schedule), but "
        "their optimizers did not do the same: the optimizer probes differ"
        for name, runs in called.items()
        if len(runs) > 1
    )


def _unknown(table: pl.DataFrame) -> tuple[str, ...]:
    lines = []
    for name, told in _FACTS.items():
        missing = table[name].null_count() if name in table else table.height
        if missing:
            lines.append(f"{told} (not recorded in {missing} of {table.height} runs)")
    return tuple(lines)


def _key(table: pl.DataFrame, by: str, name: str, role: str) -> Key:
    column = table[name]
    if name == PROBE:  # nobody reads its numbers
        column = pl.Series([n and f"probe {n}" for n in _probes(table, first=1)])
    values = distinct(column)
    by_group = {}
    if role == "confounder":
        groups = _members(table, by).items()
        by_group = {g: distinct(column[i])[:8] for g, i in groups}
    told = _FACTS.get(name, name.removeprefix("provenance."))
    return Key(told, role, values[:8], len(values), by_group)
