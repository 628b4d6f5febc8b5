"""Which columns may explain a difference, and which follow from the factor."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase

import polars as pl

from runner.compare.load import CHOICES, COSTS, SEEDS, natural
from runner.record import provenance
from runner.settings import FACT, MACHINE, NUMBERS, RECORD, ROUNDING, SETTINGS, Affects
from runner.settings import affects as setting_affects

# Names, results and repetitions. Other columns are settings and facts, which declare
# what they affect.
_RESULTS = (
    "run", "folder", "status", "error", "stopped", "unchanged", *COSTS,
    "final.*", "best.*", "best_step.*",
    "optimizer_probe",  # the same as in provenance
    "provenance.git", "provenance.runner_git",  # null; their parts are compared
)  # fmt: skip

PROBE = f"{FACT}optimizer_probe"
INITIAL = f"{FACT}initial_parameters"
DATA = f"{FACT}data_digest.*"
BATCH = f"{FACT}first_batch"
DEVICES = f"{FACT}devices"
# What a comparison calls those that say what a run computed with.
TITLES = {
    PROBE: "optimizer probe",
    INITIAL: "initial parameters",
    DATA: "data",
    f"{FACT}data_order": "data order",
    BATCH: "first batch",
    DEVICES: "devices",
}
# Where another run's state comes from; these two values mean none.
_RESUME, _OWN_STATE = "checkpoint.resume", ("auto", "never")
_KEEPS_BEST = "checkpoint.best"
# Where the data are: that matters if nobody knows what they are.
_FOLDERS = ("data.data_dir", "data.manual_dir")
_FILES = ("data.path", "data.files", "data.validation", "data.test")

_TUNED = ("optimizer.", "schedule.")
# Other keys of the shipped YAML refer to these; an equal value counts as a reference.
_SOURCES = ("optimizer.learning_rate", "train.steps", "train.steps_per_epoch")


def is_fact(name: str) -> bool:
    """Whether it was recorded rather than configured. Its null means unknown."""
    return name.startswith(FACT)


def ignored(name: str) -> bool:
    """Whether a column can't change a run's results."""
    silent = RECORD | (ROUNDING if is_fact(name) else MACHINE)
    return is_result(name) or not _affects(name) & ~silent


def is_result(name: str) -> bool:
    """Whether a column names a run, holds its results or repeats another."""
    return any(fnmatchcase(name, pattern) for pattern in _RESULTS)


def _affects(name: str) -> Affects:
    if is_fact(name):
        return provenance.affects(name.removeprefix(FACT))
    return setting_affects(name)


def varying(table: pl.DataFrame) -> list[str]:
    """The columns that differ between runs and may change their results."""
    names = []
    same_devices = DEVICES not in table or table[DEVICES].drop_nulls().n_unique() <= 1
    of_machine = MACHINE | ROUNDING  # facts that say nothing on the same devices
    known = recorded(table, DATA).all()
    kept = [] if known else [*_FOLDERS]
    digests = [c for c in table.columns if fnmatchcase(c, DATA)]
    if _KEEPS_BEST in table and table[_KEEPS_BEST].any():
        kept.append("objective")  # which decides what test/* are of
    if _RESUME in table and not table[_RESUME].is_in(_OWN_STATE).all():
        kept.append(_RESUME)
    for name in table.columns:
        if same_devices and is_fact(name) and not _affects(name) & ~of_machine:
            continue
        # `seed` stands for those of SEEDS that vary.
        if name in SEEDS or (ignored(name) and name not in kept):
            continue
        if name in _FILES and known and not determined(table, name, digests):
            continue  # the same examples from several places
        values = table[name].drop_nulls() if is_fact(name) else table[name]
        if values.n_unique() > 1:
            names.append(name)
    return names


def recorded(table: pl.DataFrame, pattern: str) -> pl.Series:
    """Which runs have recorded a fact, or any of those that are `pattern`."""
    columns = [c for c in table.columns if fnmatchcase(c, pattern)]
    known = [pl.col(c).is_not_null() for c in columns]
    return table.select(found=pl.any_horizontal(known or [pl.lit(False)])).to_series()


def copies(table: pl.DataFrame) -> dict[str, str]:
    """{key: the key it refers to}, such as schedule.value: optimizer.learning_rate."""
    names = [c for c in table.columns if c.startswith("schedule.")]
    return {
        name: source
        for source in reversed(_SOURCES)
        for name in [*names, "train.eval_every_steps"]
        if source in table and name in table
        # One that is given by an environment variable is the text that names it.
        if table[name].dtype.is_numeric() and table[source].dtype.is_numeric()
        if table[name].count() and (table[name] == table[source]).all()
    }


def own_keys(table: pl.DataFrame, by: str) -> set[str]:
    """`by` and what follows from it: its section, references to that, and facts."""
    section = by.removeprefix(FACT).split(".")[0]
    settings = SETTINGS.get(by), SETTINGS.get(section)
    declared = [provenance.FACTS.get(section)] if is_fact(by) else settings
    follows = next((own.decides for own in declared if own and own.decides), ())
    references = copies(table)
    patterns = [by, references.get(by, by), *follows]
    patterns += [f"{by}.*"] if by in CHOICES else []
    own = {c for c in table.columns if any(fnmatchcase(c, p) for p in patterns)}
    return own | {name for name, source in references.items() if source in own}


def folded(table: pl.DataFrame, keys: Sequence[str]) -> list[str]:
    """`keys` without what follows from another: adam's b1 follows from adam.

    Optimizer probes don't: a name and its updates are two things (flax #4087).
    """
    known = (SETTINGS[key] for key in keys if key in SETTINGS)
    patterns = {pattern for own in known for pattern in own.decides} - {PROBE}
    kept = []
    for key in keys:
        section = key.split(".")[0]
        is_fingerprint = is_fact(key) and _affects(key) == NUMBERS
        if is_fingerprint and any(fnmatchcase(key, pattern) for pattern in patterns):
            continue
        if section in keys and section != key and determined(table, key, [section]):
            continue
        kept.append(key)
    return kept


def tuned_keys(table: pl.DataFrame, by: str) -> list[str]:
    """The keys that the groups were tuned over.

    They take several values where all choices of groups are the same. They are in the
    section of `by`, or they are numbers of the optimizer or the schedule and all groups
    tried the same values: else one could win by a learning rate that another never had.
    """
    choices = list(dict.fromkeys([by, *CHOICES]))
    skip = {*choices, *copies(table)}
    own = f"{by}." if by in CHOICES else ()
    return [
        name
        for name in varying(table)
        if name not in skip and not determined(table, name, choices)
        if name.startswith(own)
        or (name.startswith(_TUNED) and _is_same_grid(table, by, name))
    ]


def _is_same_grid(table: pl.DataFrame, by: str, name: str) -> bool:
    """Whether every group tried the same numbers of `name`, for the same choices."""
    others = [group for group in CHOICES if group != by]
    grids = table.select(by, *others, name).unique().partition_by(by)
    tried = {frozenset(grid.drop(by).rows()) for grid in grids}
    return table[name].dtype.is_numeric() and len(tried) == 1


def cell_keys(table: pl.DataFrame, by: str, tuned: Sequence[str]) -> list[str]:
    """The keys that vary within the groups, without those that follow from others."""
    skip = {by, "seed", *own_keys(table, by), *tuned, *copies(table)}
    names = [n for n in varying(table) if n not in skip and not is_fact(n)]
    kept: list[str] = []
    for name in sorted(names, key=lambda name: name not in CHOICES):
        if not determined(table, name, kept):
            kept.append(name)
    return kept


def determined(table: pl.DataFrame, name: str, by: Sequence[str]) -> bool:
    """Whether `name` is a function of the columns `by`."""
    if not by:
        return table[name].n_unique() <= 1
    return table.select(*by, name).n_unique() == table.select(by).n_unique()


def differing(table: pl.DataFrame) -> list[str]:
    """All that differs between two runs, and that a reader would want to know.

    Of two optimizers, say, not the arguments that only one of them has. The updates
    come first, then settings, other fingerprints, versions and code.
    """
    chosen = {c for c in CHOICES if c in table and table[c].n_unique() > 1}
    aside, names = {*SEEDS, *copies(table)}, []
    for name in table.columns:
        section, _, rest = name.partition(".")
        lacking = rest == "_target_" or table[name].null_count()
        follows = section in chosen and rest and lacking
        silent = RECORD if is_fact(name) else RECORD | MACHINE
        if name in aside or is_result(name) or follows or not _affects(name) & ~silent:
            continue
        if table[name].n_unique() > 1:
            names.append(name)
    versions = {n for n in names if is_fact(n) and _affects(n) != NUMBERS}
    return sorted(names, key=lambda n: (n != PROBE, is_fact(n), n in versions))


def texts(values: pl.Series) -> list[str]:
    """Values as they are written in an override."""
    return [v if isinstance(v, str) else json.dumps(v) for v in values]


def distinct(values: pl.Series) -> tuple[str, ...]:
    """The different values as text, numbers by size and words in natural order."""
    if values.dtype.is_numeric():
        return tuple(texts(values.unique().sort(nulls_last=True)))
    return tuple(sorted(set(texts(values)), key=natural))
