"""Which columns of the table can make a difference, and what belongs to a factor."""

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase

import polars as pl

from runner.compare.load import GROUPS

# What may differ between runs of a controlled comparison, and why.
IGNORED = {
    # names and results
    "run": "names",
    "folder": "names",
    **dict.fromkeys(("status", "error", "wall_seconds", "compile_seconds"), "results"),
    **dict.fromkeys(("final.*", "best.*", "best_step.*"), "results"),
    # what is written and where, not what is trained
    **dict.fromkeys(("wandb.*", "checkpoint.*", "objective"), "outputs"),
    "compilation_cache": "outputs",
    **dict.fromkeys(("train.log_every_steps", "train.profile", "verify"), "outputs"),
    **dict.fromkeys(("data.data_dir", "data.manual_dir", "data.download"), "places"),
    **dict.fromkeys(("cluster.*", "distributed.*"), "places"),
    "print": "outputs",
    # different in every run, or following from what is compared anyway
    **dict.fromkeys(("provenance.started", "provenance.pid"), "every run's own"),
    **dict.fromkeys(("provenance.command", "provenance.folder"), "every run's own"),
    **dict.fromkeys(("provenance.wandb_id", "provenance.restarts"), "every run's own"),
    "provenance.program_key": "follows from config, versions and devices",
    "provenance.device_count": "follows from devices",
    "provenance.members": "changes rounding, no more",
    "optimizer_probe": "the same as in provenance",
    "provenance.git": "null outside a repository; its parts are compared",
    "provenance.runner_git": "null if installed; its parts are compared",
}
# Another machine matters by its device: with equal devices these differ freely.
_MACHINE = ("hostname", "cpu_count", "platform", "executable")

PROBE = "provenance.optimizer_probe"
INITIAL = "provenance.initial_parameters"
ORDER = "provenance.data_order"
DEVICES = "provenance.devices"
_HORIZON = (
    "train.steps",
    "train.epochs",
    "train.eval_every_steps",
    "schedule.*steps*",
    PROBE,
)

# What changes with a factor because it follows from it. The probe is of the optimizer
# as it trains: with its schedule, and what `train` puts around it.
_FOLLOWS = {
    "optimizer": (PROBE,),
    "schedule": (PROBE,),
    "train": (PROBE,),
    "model": (INITIAL,),
    "data": (INITIAL, ORDER, "train.steps_per_epoch", *_HORIZON),
    "mesh": (DEVICES,),
    "seed": (INITIAL, ORDER),
    "train.steps": _HORIZON,
    "train.epochs": _HORIZON,
}
# The shipped YAML refers to these from elsewhere; an equal value is a reference.
_SOURCES = ("optimizer.learning_rate", "train.steps", "train.steps_per_epoch")


def is_fact(name: str) -> bool:
    """Recorded about a run rather than asked for. Null is unknown, not a value."""
    return name.startswith("provenance.")


def ignored(name: str) -> bool:
    """Whether a column can't make a difference by itself: see IGNORED."""
    return any(fnmatchcase(name, pattern) for pattern in IGNORED)


def varying(table: pl.DataFrame) -> list[str]:
    """The columns that differ between runs and may make a difference."""
    names = []
    same_devices = DEVICES not in table or table[DEVICES].drop_nulls().n_unique() <= 1
    for name in table.columns:
        machine = name.removeprefix("provenance.") in _MACHINE
        if (machine and same_devices) or ignored(name):
            continue
        values = table[name].drop_nulls() if is_fact(name) else table[name]
        if values.n_unique() > 1:
            names.append(name)
    return names


def copies(table: pl.DataFrame) -> dict[str, str]:
    """{key: the key it refers to}, such as "schedule.value": the learning rate."""
    found = {}
    for name in table.columns:
        if not (name.startswith("schedule.") or name == "train.eval_every_steps"):
            continue
        for source in _SOURCES:
            if source not in table or not table[name].dtype.is_numeric():
                continue
            if table[name].count() and (table[name] == table[source]).all():
                found.setdefault(name, source)
    return found


def own_keys(table: pl.DataFrame, by: str) -> set[str]:
    """`by` and what follows from it: a group's section, what refers to that, facts."""
    follows = _FOLLOWS.get(by) or _FOLLOWS.get(by.split(".")[0], ())
    references = copies(table)
    patterns = [by, references.get(by, by), *follows]
    patterns += [f"{by}.*"] if by in GROUPS else []
    own = {c for c in table.columns if any(fnmatchcase(c, p) for p in patterns)}
    return own | {name for name, source in references.items() if source in own}


def tuned_keys(table: pl.DataFrame, by: str) -> list[str]:
    """The keys that the groups were tuned over.

    Those in the section of `by`, and numbers of the optimizer and the schedule, that
    take several values where all choices of groups are the same. What isn't the
    factor's own counts only if every group tried the same values: otherwise one group
    would win by a learning rate that another never had.
    """
    choices = list(dict.fromkeys([by, *GROUPS]))
    skip = {*choices, *copies(table)}
    found = []
    for name in varying(table):
        if name in skip or determined(table, name, choices):
            continue
        is_number = table[name].dtype.is_numeric()
        if (by in GROUPS and name.startswith(f"{by}.")) or (
            name.startswith(("optimizer.", "schedule."))
            and is_number
            and _same_grid(table, by, name)
        ):
            found.append(name)
    return found


def _same_grid(table: pl.DataFrame, by: str, name: str) -> bool:
    """Whether all values of `by` have the same values of `name`, choice by choice."""
    others = [group for group in GROUPS if group != by]
    grids = table.select(by, *others, name).unique().partition_by(by)
    return len({frozenset(grid.drop(by).rows()) for grid in grids}) == 1


def cell_keys(table: pl.DataFrame, by: str, tuned: Sequence[str]) -> list[str]:
    """What else was varied: as few keys as tell the cells apart, choices first."""
    skip = {by, "seed", *own_keys(table, by), *tuned, *copies(table)}
    names = [n for n in varying(table) if n not in skip and not is_fact(n)]
    kept: list[str] = []
    for name in sorted(names, key=lambda name: name not in GROUPS):
        if not determined(table, name, kept):
            kept.append(name)
    return kept


def determined(table: pl.DataFrame, name: str, by: Sequence[str]) -> bool:
    """Whether `name` is a function of the columns `by`."""
    if not by:
        return table[name].n_unique() <= 1
    return table.select(*by, name).n_unique() == table.select(by).n_unique()


def default_by(table: pl.DataFrame) -> str:
    """The factor that a sweep was most likely about."""
    keys = [k for k in varying(table) if not is_fact(k)]
    likely = ("optimizer", "schedule", "framework", "model", *GROUPS)
    redundant = {"seed", *copies(table)}
    others = [k for k in keys if k not in redundant]
    return next((k for k in (*likely, *others) if k in keys), "optimizer")


def texts(values: pl.Series) -> list[str]:
    """Values as one writes them in an override."""
    return [v if isinstance(v, str) else json.dumps(v) for v in values]
