"""The runner's own settings: their types, their ranges, and what they affect.

conf/ gives the values and explains them to users. These definitions determine the key
of a program, the identity of a job in a sweep, what may change when a run is resumed,
what compare may ignore, and what a replay must find unchanged.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Flag, auto
from typing import Any, NamedTuple, get_type_hints

from runner.trees import is_pattern

MISSING: Any = "???"  # as OmegaConf writes a value that must be given
PROBE = "probe/"  # how the names of what `probes` record in a row begin


class Affects(Flag):
    """The aspects of a run that another value of a setting may change."""

    PROGRAM = auto()
    """The compiled program."""
    NUMBERS = auto()
    """What a run computes: an argument of its program, or its data."""
    LENGTH = auto()
    """How many steps it takes."""
    ROUNDING = auto()
    """The last bits of its numbers."""
    RECORD = auto()
    """What is written or shown about it."""
    MACHINE = auto()
    """Where it runs, and where its files are."""
    CHECKS = auto()
    """Whether it is known to have computed what it says."""


PROGRAM, NUMBERS, LENGTH = Affects.PROGRAM, Affects.NUMBERS, Affects.LENGTH
ROUNDING, RECORD, MACHINE = Affects.ROUNDING, Affects.RECORD, Affects.MACHINE
CHECKS = Affects.CHECKS


class Setting(NamedTuple):
    """The properties of a setting besides its type.

    Attributes:
      affects: see `Affects`.
      valid: whether a value that isn't null is within the range; None if all are.
      rule: the range in words, after "must be".
      switch: whether it is null is part of the program; its value isn't.
      decides: other columns of compare that follow from it; may be patterns.
      label: a readable name, if it differs from the key.
      absent: what it means that a run lacks it, or a key of it, that other runs have:
        the value that it has without, or that an older runner always had. Nothing is
        known then if this is empty.
    """

    affects: Affects
    valid: Callable[[Any], bool] | None
    rule: str
    switch: bool
    decides: tuple[str, ...]
    label: str
    absent: Any


def setting(
    affects: Affects,
    valid: Callable[[Any], bool] | None = None,
    rule: str = "",
    *,
    switch: bool = False,
    decides: tuple[str, ...] = (),
    label: str = "",
    absent: Any = "",
) -> Any:
    """A field of a settings dataclass. The arguments are those of `Setting`."""
    meta = Setting(affects, valid, rule, switch, decides, label, absent)
    return field(default=MISSING, metadata={"setting": meta})


_DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")


def minutes(time: Any) -> int | None:
    """The minutes, rounded up, in a Slurm duration; None if `time` isn't one.

    Its forms are minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes and days-hours:minutes:seconds (`man sbatch`, --time).
    """
    match = _DURATION.fullmatch(str(time))
    if match is None:
        return None
    days, *parts = match.groups()
    given = [int(part) for part in parts if part is not None]
    if days is None and len(given) < 3:  # they begin with the minutes
        given = [0, *given]
    hours, mins, seconds = [*given, 0, 0][:3]
    total = ((int(days or 0) * 24 + hours) * 60 + mins) * 60 + seconds
    return -(-total // 60) or None


def _at_least(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda x: x >= least, f"at least {least}"


def _one_of(*options: str) -> tuple[Callable[[Any], bool], str]:
    *first, last = options
    text = f"{', '.join(first)} or {last}" if first else last
    return lambda x: x in options, text


def _or_null(limits: tuple[Callable[[Any], bool], str]) -> tuple[Any, str]:
    return limits[0], f"{limits[1]}, or null"


# Facts of provenance.json that follow from settings.
FACT = "provenance."
_PROBE = f"{FACT}optimizer_probe"
_INITIAL = f"{FACT}initial_parameters"
_ORDER = f"{FACT}data_order"
_BATCH = f"{FACT}first_batch"
_CONVOLUTION = "train.convolution"  # `auto` looks at the program and its shapes
_HORIZON = (
    "train.steps",
    "train.epochs",
    "train.eval_every_steps",
    "schedule.*steps*",
    _PROBE,
)


@dataclass
class StopSettings:
    """`train.stop`: when a run ends before its last step."""

    metric: str = setting(LENGTH, absent="validation/loss")
    value: float | None = setting(LENGTH, math.isfinite, "a finite number, or null")
    patience: int | None = setting(LENGTH, *_or_null(_at_least(1)))
    min_delta: float = setting(
        LENGTH, lambda x: 0 <= x < float("inf"), "at least 0, and finite", absent=0.0
    )

    @property
    def is_on(self) -> bool:
        """Whether there is any reason to end."""
        return self.value is not None or self.patience is not None


@dataclass
class TrainSettings:
    """`train`: how long, how often and how. conf/config.yaml explains each key."""

    epochs: int | None = setting(LENGTH, *_at_least(1), decides=_HORIZON)
    steps: int | None = setting(
        LENGTH,
        # The learning rate of each step is kept: 4 GB of a run of so many.
        lambda x: 1 <= x <= 10**9,
        "at least 1 and at most 1000000000",
        decides=_HORIZON,
    )
    steps_per_epoch: int | None = setting(NUMBERS)
    log_every_steps: int = setting(RECORD, *_at_least(1))
    # A plateau may watch the evaluations.
    eval_every_steps: int = setting(NUMBERS | LENGTH, *_at_least(1))
    steps_per_call: Any = setting(
        PROGRAM,
        lambda x: x == "auto" or (type(x) is int and x >= 1),
        "auto, or a whole number of at least 1",
    )
    on_nan: str = setting(NUMBERS, *_one_of("stop", "continue"))
    stop: StopSettings = setting(LENGTH)
    clip_global_norm: float | None = setting(
        NUMBERS, lambda x: 0 < x < float("inf"), "greater than 0, or null", switch=True
    )
    gradient_accumulation: int = setting(PROGRAM, *_at_least(1))
    mask_weight_decay: Any = setting(
        PROGRAM,
        lambda x: (
            isinstance(x, bool)
            or (isinstance(x, Sequence) and len(x) > 0 and all(map(is_pattern, x)))
        ),
        "true, false or a list of regular expressions",
    )
    convolution: str = setting(
        PROGRAM | ROUNDING, *_one_of("auto", "native", "patches"), absent="native"
    )
    choose: str = setting(
        RECORD, *_one_of("table", "measure")
    )  # its choice is recorded
    ema_decay: float | None = setting(
        NUMBERS, lambda x: 0 < x < 1, "between 0 and 1, or null", switch=True
    )
    limit_batches: int | None = setting(NUMBERS, *_or_null(_at_least(1)))
    debug_nans: bool = setting(PROGRAM)
    profile: bool = setting(RECORD)


@dataclass
class CheckpointSettings:
    """`checkpoint`: when a run is saved and resumed; conf/config.yaml explains it."""

    every_steps: int | None = setting(RECORD, *_or_null(_at_least(1)))
    every_minutes: float | None = setting(
        RECORD, lambda x: x > 0, "greater than 0, or null"
    )
    keep: int = setting(RECORD, *_at_least(1))
    best: bool = setting(NUMBERS)  # test/* are those of the best state
    last: bool = setting(RECORD)
    resume: str = setting(RECORD)


_SEED = (lambda x: 0 <= x < 2**32, "from 0 to 2**32 - 1")


@dataclass
class SeedSettings:
    """`seeds`: those that differ from `seed`."""

    init: int | None = setting(NUMBERS, *_or_null(_SEED), decides=(_INITIAL,))
    order: int | None = setting(NUMBERS, *_or_null(_SEED), decides=(_ORDER, _BATCH))
    step: int | None = setting(NUMBERS, *_or_null(_SEED), decides=(_BATCH,))


@dataclass
class PrecisionSettings:
    """`precision`: the types that models compute in; conf/precision explains them."""

    compute: str = setting(PROGRAM, *_one_of("float32", "bfloat16"))
    matmul: str = setting(PROGRAM, *_one_of("default", "high", "highest"))


@dataclass
class MeshSettings:
    """`mesh`: the named axes of the device mesh and how many devices each takes."""

    data: int = setting(PROGRAM | MACHINE)
    fsdp: int = setting(PROGRAM | MACHINE)
    model: int = setting(PROGRAM | MACHINE)
    min_shard_elements: int = setting(PROGRAM | MACHINE, *_at_least(1))
    rules: list[Any] = setting(PROGRAM | MACHINE)


@dataclass
class DistributedSettings:
    """`distributed`: how the processes of one run find each other."""

    enabled: bool = setting(MACHINE)
    coordinator_address: str | None = setting(MACHINE)
    num_processes: int | None = setting(MACHINE, *_or_null(_at_least(1)))
    process_id: int | None = setting(MACHINE, *_or_null(_at_least(0)))
    timeout_seconds: int = setting(MACHINE, *_at_least(1))


@dataclass
class WandbSettings:
    """`wandb`: W&B's own names; null where W&B or the program decides."""

    mode: str = setting(RECORD, *_one_of("offline", "online", "disabled"))
    project: str | None = setting(
        RECORD,
        lambda x: len(x) <= 128 and not set(x) & set("/\\#?%:"),
        "at most 128 characters, none of them any of /\\#?%:",
    )
    entity: str | None = setting(RECORD)
    group: str | None = setting(RECORD)
    job_type: str | None = setting(RECORD)
    name: str | None = setting(RECORD)
    tags: list[str] | None = setting(RECORD)
    notes: str | None = setting(RECORD)
    log_model: bool = setting(RECORD)


@dataclass
class ClusterSettings:
    """`cluster`: where runs are trained. conf/cluster/none.yaml explains each key."""

    engine: str | None = setting(MACHINE, *_or_null(_one_of("local", "slurm")))
    partition: str | None = setting(MACHINE)
    account: str | None = setting(MACHINE)
    qos: str | None = setting(MACHINE)
    nodes: int = setting(MACHINE, *_at_least(1))
    gpus: int = setting(MACHINE, *_at_least(0))
    cpus: int | None = setting(MACHINE, *_or_null(_at_least(1)))
    memory: str | None = setting(
        MACHINE,
        lambda x: re.fullmatch(r"[1-9]\d*[KMGT]?B?", x, re.IGNORECASE) is not None,
        "a number with K, M, G or T, such as 16G, or null",
    )
    time: Any = setting(
        MACHINE,
        lambda x: minutes(x) is not None,
        "a number of minutes (at least 1) or a time such as 12:00:00 or 2-00:00:00",
    )
    sbatch: dict[str, Any] = setting(MACHINE)
    setup: list[str] = setting(MACHINE)
    array_parallelism: int = setting(MACHINE, *_at_least(1))
    max_tasks: int = setting(MACHINE, lambda x: 1 <= x <= 1000, "from 1 to 1000")
    warning_seconds: int = setting(MACHINE, *_at_least(1))
    retries: int = setting(MACHINE, *_at_least(0))
    dry_run: bool = setting(MACHINE)


@dataclass
class Settings:
    """The whole configuration. The groups' targets define the keys of GROUPS."""

    seed: int = setting(NUMBERS, *_SEED, decides=(_INITIAL, _ORDER, _BATCH))
    seeds: SeedSettings = setting(NUMBERS)
    validation: str = setting(
        PROGRAM | NUMBERS,
        *_one_of("validation", "test"),
        decides=(f"{FACT}data_digest.*", _ORDER),
        absent="validation",
    )
    init_from: str | None = setting(
        NUMBERS, switch=True, decides=(_INITIAL, f"{FACT}init_from.*")
    )
    init_exclude: list[str] | None = setting(
        NUMBERS,
        lambda x: all(map(is_pattern, x)),
        "a list of regular expressions, or null",
        decides=(_INITIAL, f"{FACT}init_from.*"),
    )
    init_rename: list[Any] | None = setting(
        NUMBERS,
        lambda x: all(
            isinstance(pair, Sequence)
            and len(pair) == 2
            and is_pattern(pair[0])
            and isinstance(pair[1], str)
            for pair in x
        ),
        "a list of pairs, each a regular expression and its replacement, or null",
        decides=(_INITIAL, f"{FACT}init_from.*"),
    )
    objective: str = setting(RECORD)
    # What JAX started with is recorded too.
    deterministic: bool = setting(PROGRAM | ROUNDING, decides=(f"{FACT}xla_flags",))
    verify: bool = setting(CHECKS)
    print: str | None = setting(
        RECORD, *_or_null(_one_of("config", "model", "sharding"))
    )
    compilation_cache: str | None = setting(MACHINE)
    train: TrainSettings = setting(PROGRAM, decides=(_PROBE,))
    checkpoint: CheckpointSettings = setting(RECORD)
    precision: PrecisionSettings = setting(PROGRAM)
    mesh: MeshSettings = setting(PROGRAM | MACHINE, decides=(f"{FACT}devices",))
    distributed: DistributedSettings = setting(MACHINE)
    tracker: dict[str, Any] = setting(RECORD)
    wandb: WandbSettings = setting(RECORD)
    cluster: ClusterSettings = setting(MACHINE)
    task: Any = setting(PROGRAM)
    metrics: dict[str, Any] = setting(PROGRAM)
    # They are compiled into the program too, but no step depends on them.
    probes: dict[str, Any] = setting(RECORD)
    callbacks: dict[str, Any] = setting(RECORD)
    data: Any = setting(
        PROGRAM | NUMBERS,
        decides=(
            *(f"{FACT}data_digest.*", _INITIAL, _ORDER, _BATCH, _CONVOLUTION),
            *("train.steps_per_epoch", *_HORIZON),
        ),
    )
    model: Any = setting(PROGRAM, decides=(_INITIAL, _CONVOLUTION))
    framework: Any = setting(PROGRAM)
    # Numbers in these two are arguments of the program; the rest is in its key.
    optimizer: Any = setting(PROGRAM | NUMBERS, decides=(_PROBE,))
    schedule: Any = setting(PROGRAM | NUMBERS, decides=(_PROBE,))


# The groups whose choices name a function by `_target_`.
GROUPS = ("model", "framework", "optimizer", "schedule", "data", "task")
# Those that have several, by names, which of hooks are in paths and in files' names.
HOOKS = ("probes", "callbacks")
NAMED = ("metrics", *HOOKS)

# Arguments of targets that say where files are, or which rows a step uses.
_ARGUMENTS = {
    f"data.{name}": Setting(MACHINE, None, "", False, (), "", "")
    for name in ("data_dir", "manual_dir", "download")
} | {"data.reshuffle": Setting(NUMBERS, None, "", False, (_ORDER,), "", True)}
# Keys of config.json beside the configuration.
RECORDED = ("hydra", "optimizer_probe", "format")


def settings_of(schema: type, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """The dotted name of each field of `schema` and of its sections."""
    hints = get_type_hints(schema)
    for entry in fields(schema):
        name = f"{prefix}{entry.name}"
        yield name, entry.metadata["setting"]
        section = hints[entry.name]
        if is_dataclass(section):
            assert isinstance(section, type)
            yield from settings_of(section, f"{name}.")


def sections_of(schema: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The dotted name and the schema of each section of `schema`, and of theirs."""
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield f"{prefix}{name}", hint
            yield from sections_of(hint, f"{prefix}{name}.")


SETTINGS: dict[str, Setting] = dict(settings_of(Settings)) | _ARGUMENTS
SECTIONS: dict[str, type] = dict(sections_of(Settings))


def affects(key: str) -> Affects:
    """The effects of the setting that is a dotted key, or contains it."""
    name = key
    while name and name not in SETTINGS:
        name = name.rpartition(".")[0]
    # An unknown key may change anything.
    return SETTINGS[name].affects if name else PROGRAM | NUMBERS


def identifies_job(key: str) -> bool:
    """Whether another value makes it a different job of a sweep."""
    return not _is_within(key, RECORD | MACHINE)


def may_change_on_resume(key: str) -> bool:
    """Whether a run may be resumed with another value.

    It then changes no step before the checkpoint, or what it changes is recorded.
    """
    if key.partition(".")[0] in RECORDED:
        return True
    affected = affects(key)
    return not affected & NUMBERS and bool(affected & (LENGTH | RECORD | MACHINE))


def only_numbers(key: str) -> bool:
    """Whether runs that differ in it share their program and their timetable."""
    return _is_within(key, NUMBERS)


def is_in_program(key: str) -> bool:
    """Whether a value is part of the key of the compiled program."""
    return bool(affects(key) & PROGRAM)


def makes_no_difference(key: str) -> bool:
    """Whether compare may ignore it: it only says what is written, or where."""
    return _is_within(key, RECORD | MACHINE)


def _is_within(key: str, flags: Affects) -> bool:
    return not affects(key) & ~flags
