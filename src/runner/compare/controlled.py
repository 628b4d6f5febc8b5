"""Whether a comparison is controlled: what differs besides the factor asked about.

flax #4087 blamed a framework for what an optimizer did: its two runs differed in both.
"""

import itertools
import json
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.keys import (
    DEVICES,
    INITIAL,
    ORDER,
    PROBE,
    copies,
    determined,
    is_fact,
    own_keys,
    texts,
    tuned_keys,
    varying,
)
from runner.compare.load import GROUPS, natural

_FACTS = {
    PROBE: "optimizer probe",
    INITIAL: "initial parameters",
    ORDER: "data order",
    DEVICES: "devices",
}
# Probes of one optimizer in two frameworks or versions of XLA differ by rounding.
_PROBE_TOLERANCE = 1e-4


class Key(NamedTuple):
    """A key that differs between runs.

    Attributes:
      name: such as "optimizer.b1" or "optimizer probe".
      role: "factor" (what was asked about), "consequence" (follows from the factor),
        "tuned" (tried within the groups), "crossed" (the same values in every group) or
        "confounder" (differs between the groups where nothing else should).
      values: up to eight of them as text, in natural order; `count` in all.
      by_group: {group: values} of a confounder.
    """

    name: str
    role: str
    values: tuple[str, ...]
    count: int
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


def control(table: pl.DataFrame, by: str) -> Control:
    """Check a comparison of the runs in `table` by the column `by`.

    A run's partner in another group has the same value of every key, those of the
    factor itself and tuned ones aside. Where two groups have no partners at all, the
    keys in which the nearest runs differ are confounders; where they have, whatever was
    recorded of the partners (versions, devices, ...) and differs is one.
    """
    own, tuned = own_keys(table, by), tuned_keys(table, by)
    keys = varying(table)
    free = [
        k for k in keys if k not in own and k not in tuned and k not in copies(table)
    ]
    confounded, unmatched = _match(table, by, free, [k for k in tuned if k not in own])
    confounded = _folded(table, confounded)
    roles = {key: "crossed" for key in keys}
    roles |= {key: "consequence" for key in keys if key in own or key in copies(table)}
    roles |= dict.fromkeys(tuned, "tuned") | dict.fromkeys(confounded, "confounder")
    roles |= {by: "factor"} if by in keys else {}
    order = ("confounder", "factor", "tuned", "crossed", "consequence")
    names = sorted(roles, key=lambda k: (order.index(roles[k]), k not in GROUPS))
    impostors = _impostors(table)
    return Control(
        controlled=not confounded and not impostors,
        impostors=impostors,
        keys=tuple(_key(table, by, name, roles[name]) for name in names),
        unknown=_unknown(table),
        unmatched=unmatched,
    )


def _match(
    table: pl.DataFrame, by: str, free: list[str], tuned: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The confounders among `free`, and the runs that lack a partner."""
    config = [k for k in free if not is_fact(k)]
    facts = [k for k in free if is_fact(k)]
    # In this order: runs that differ in a fact are nearer than in a tuned key.
    names = [config, tuned, facts]
    codes = [_codes(table, n) for n in names]
    weights = [(len(tuned) + 1) * (len(facts) + 1), len(facts) + 1, 1]
    members = _members(table, by)
    found: set[str] = set()
    unmatched: set[int] = set()
    for a, b in itertools.combinations(members.values(), 2):
        apart = [_apart(c, a, b) for c in codes]
        distance = sum(w * d.sum(-1) for w, d in zip(weights, apart, strict=True))
        assert isinstance(distance, np.ndarray)
        near = [(i, int(j)) for i, j in enumerate(distance.argmin(1))]
        near += [(int(i), j) for j, i in enumerate(distance.argmin(0))]
        partners = [(i, j) for i, j in near if not apart[0][i, j].any()]
        unmatched |= set(a) - {a[i] for i, _ in partners}
        unmatched |= set(b) - {b[j] for _, j in partners}
        for keys, differs in zip(names, apart, strict=True):
            for pair in (partners or near) if keys is not tuned else ():
                found |= {k for k, d in zip(keys, differs[pair], strict=True) if d}
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


def _probes(table: pl.DataFrame) -> list[int | None]:
    """For each run a number of its probe; the same within a tolerance."""
    seen: list[np.ndarray] = []
    known: dict[str | None, int | None] = {None: None}
    values = table[PROBE].to_list()
    for text in values:
        if text in known:
            continue
        probe = np.asarray(json.loads(text), float)
        same = (i for i, other in enumerate(seen) if _same(probe, other))
        known[text] = next(same, len(seen))
        seen.append(probe)
    return [known[text] for text in values]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    scale = np.abs(b).max(initial=0)
    atol = _PROBE_TOLERANCE * (scale if np.isfinite(scale) else 0)
    return np.allclose(a, b, rtol=0, atol=atol, equal_nan=True)


def _folded(table: pl.DataFrame, confounded: list[str]) -> list[str]:
    """Without what follows from another confounder: adam's b1 from the choice of it."""
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
    names = [c for c in table.columns if c.split(".")[0] == "optimizer"]
    called: dict[tuple, dict[int, str]] = {}
    for name, run, probe in zip(
        table.select(names).rows(), table["run"], _probes(table), strict=True
    ):
        if probe is not None:
            called.setdefault(name, {}).setdefault(probe, run)
    return tuple(
        f"{' and '.join(runs.values())} are called the same (optimizer="
        f"{name[names.index('optimizer')]}, all its settings equal), but their "
        "optimizers did not do the same: the optimizer probes differ"
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
    values = _distinct(table[name])
    by_group = {}
    if role == "confounder":
        groups = _members(table, by).items()
        by_group = {g: _distinct(table[name][i])[:8] for g, i in groups}
    told = _FACTS.get(name, name.removeprefix("provenance."))
    return Key(told, role, values[:8], len(values), by_group)


def _distinct(values: pl.Series) -> tuple[str, ...]:
    return tuple(sorted(set(texts(values)), key=natural))
