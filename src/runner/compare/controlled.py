"""Whether a comparison is controlled: what differs besides the factor.

flax #4087 blamed a framework for an optimizer's effect: its two runs differed in both.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from runner.compare.columns import (
    PROBE,
    TITLES,
    copies,
    distinct,
    folded,
    ignored,
    is_fact,
    own_keys,
    recorded,
    texts,
    varying,
)
from runner.compare.load import CHOICES, natural
from runner.errors import few
from runner.settings import FACT

_CODE = f"{FACT}module_digests."
# Relative. Probes are rounded to six digits; two frameworks may differ in the last.
_PROBE_TOLERANCE = 2e-5
# The sections that determine an optimizer's updates; `train` has the clipping.
_NAMED = ("optimizer", "schedule", "train")


class Key(NamedTuple):
    """A key that differs between runs.

    Attributes:
      name: such as "optimizer.b1" or "optimizer probe".
      role: "factor" (compared), "consequence" (follows from the factor), "tuned" (tried
        within the groups), "crossed" (the same values in every group) or "confounder"
        (differs between the groups and doesn't follow from the factor).
      values: the first of them, in natural order.
      by_group: of a confounder, each group's values, such as "jax: adam; nnx: sgd".
    """

    name: str
    role: str
    values: str
    by_group: str


class Control(NamedTuple):
    """The verdict of the check.

    Attributes:
      controlled: whether nothing confounds, and no runs contradict each other.
      apart: {what runs contradict: sentences about those that do}: see `reproduced`,
        and "MISLABELED" of runs with the same settings whose optimizers differ.
      keys: all that vary, confounders first.
      unknown: facts that couldn't be checked, since not every run recorded them.
      unmatched: names of runs without a match in some other group.
    """

    controlled: bool
    apart: dict[str, list[str]]
    keys: tuple[Key, ...]
    unknown: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def confounders(self) -> tuple[Key, ...]:
        return tuple(key for key in self.keys if key.role == "confounder")


def control(
    table: pl.DataFrame, by: str, tuned: Sequence[str], apart: Mapping[str, list[str]]
) -> Control:
    """Check a comparison of the runs in `table` by the column `by`.

    A run's match in another group has the same configuration, except for the factor and
    what follows from it. Facts (versions, devices, ...) that differ between matches are
    confounders. If two groups have no matches, the keys that differ between the nearest
    runs are.

    Args:
      tuned: see `tuned_keys`.
      apart: what `reproduced` has found.
    """
    unknown, table = tuple(_unknown(table, by)), _with_named_probes(table)
    every = {**apart, "MISLABELED": _mislabeled(table)}
    apart = {what: found for what, found in every.items() if found}
    own, references = own_keys(table, by), copies(table)
    keys = [k for k in varying(table) if references.get(k) not in tuned]
    free = [k for k in keys if k not in own and k not in references]
    confounded, unmatched = _match(table, by, free)
    roles = dict.fromkeys([k for k in folded(table, keys) if k in free], "crossed")
    roles |= dict.fromkeys([k for k in keys if k in own], "consequence")
    roles |= dict.fromkeys(tuned, "tuned") | dict.fromkeys(confounded, "confounder")
    roles |= {by: "factor"} if by in keys else {}
    order = ("confounder", "factor", "tuned", "crossed", "consequence")
    names = sorted(roles, key=lambda k: (order.index(roles[k]), k not in CHOICES))
    return Control(
        controlled=not (confounded or apart),
        apart=apart,
        keys=tuple(_key(table, by, name, roles[name]) for name in names),
        unknown=unknown,
        unmatched=unmatched,
    )


def _match(
    table: pl.DataFrame, by: str, free: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The confounders among `free`, and the runs that lack a match."""
    # [run, key]: equal numbers for equal values, -1 for unknown facts.
    codes = np.empty((table.height, len(free)), int)
    for column, key in enumerate(free):
        codes[:, column] = table[key].rank("dense").fill_null(-1 if is_fact(key) else 0)
    is_setting = np.array([not is_fact(key) for key in free], bool)
    found = np.zeros(len(free), bool)
    unmatched: set[int] = set()
    for a, b in itertools.combinations(_members(table, by).values(), 2):
        left, right = codes[a][:, None], codes[b][None]
        apart = (left != right) & (left >= 0) & (right >= 0)  # [a, b, key]
        # Between equal settings, equal facts decide what is nearer.
        distance = apart[..., is_setting].sum(-1) * (len(free) + 1) + apart.sum(-1)
        near = [*enumerate(distance.argmin(1).tolist())]
        near += [(i, j) for j, i in enumerate(distance.argmin(0).tolist())]
        matches = [pair for pair in near if not apart[pair][is_setting].any()]
        unmatched |= {*a} - {a[i] for i, _ in matches}
        unmatched |= {*b} - {b[j] for _, j in matches}
        for pair in matches or near:
            found |= apart[pair]
    names = table["run"][sorted(unmatched)]
    return folded(table, [*itertools.compress(free, found)]), tuple(names)


def _members(table: pl.DataFrame, by: str) -> dict[str, list[int]]:
    """{group: its rows}, in natural order."""
    values = texts(table[by])
    groups = sorted(set(values), key=natural)
    return {g: [i for i, value in enumerate(values) if value == g] for g in groups}


def _with_named_probes(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with a name such as "probe 1" for optimizer probes that are the same.

    Null for one of fewer updates: those of an earlier version were on another problem.
    """
    if PROBE not in table:
        return table
    found = table[PROBE].drop_nulls().unique(maintain_order=True)
    probes = {text: np.asarray(json.loads(text), float) for text in found}
    most = max((probe.size for probe in probes.values()), default=0)
    kept = [probe for probe in probes.values() if probe.size == most]
    names = {
        text: next(f"probe {i}" for i, p in enumerate(kept, 1) if _same(probe, p))
        for text, probe in probes.items()
        if probe.size == most
    }
    named = [names.get(text) for text in table[PROBE]]
    return table.with_columns(pl.Series(PROBE, named, pl.String))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    scale = np.abs(b).max(initial=0)
    atol = 1e-12 * scale if np.isfinite(scale) else 0
    return np.allclose(a, b, rtol=_PROBE_TOLERANCE, atol=atol, equal_nan=True)


def _mislabeled(table: pl.DataFrame) -> list[str]:
    if PROBE not in table:
        return []
    names = [c for c in table.columns if c.split(".")[0] in _NAMED and not ignored(c)]
    one_each = table.drop_nulls(PROBE).unique(
        [*names, PROBE], keep="first", maintain_order=True
    )
    found = one_each.group_by(names, maintain_order=True).agg("run")
    return [
        f"{' and '.join(runs)} are configured with the same optimizer={optimizer}, "
        "settings and schedule, but their optimizers made different updates: the "
        "optimizer probes differ"
        for optimizer, runs in found.select("optimizer", "run").rows()
        if len(runs) > 1
    ]


def _unknown(table: pl.DataFrame, by: str) -> Iterator[str]:
    runs = table.height
    for pattern, fact in TITLES.items():
        if count := runs - int(recorded(table, pattern).sum()):
            yield f"{fact} (not recorded in {count} of {runs} runs)"
    # In one process, what is loaded depends on the runs before, so this says little.
    for name in [c for c in table.columns if c.startswith(_CODE)]:
        known = table.select(by, known=pl.col(name).is_not_null()).unique()
        if known.height == known[by].n_unique() > 1 and known["known"].n_unique() > 1:
            groups = few(texts(known.filter("known")[by]))
            module = name.removeprefix(_CODE)
            yield f"{module} (code that only {groups} has loaded)"


def _key(table: pl.DataFrame, by: str, name: str, role: str) -> Key:
    groups = _members(table, by) if role == "confounder" else {}
    by_group = [f"{g}: {few(distinct(table[name][i]))}" for g, i in groups.items()]
    title = TITLES.get(name, name.removeprefix(FACT))
    return Key(title, role, few(distinct(table[name])), "; ".join(by_group))
