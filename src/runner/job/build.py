"""From a composed configuration to a run of plain values, checked on the way."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig, OmegaConf

from runner.checks.fingerprints import toy_batch, toy_model
from runner.checks.verify import verify
from runner.config.conf import recorded
from runner.config.instantiate import call, check_targets, made_once, target
from runner.config.ranges import check_keys, check_ranges
from runner.core import feed, program, schedules, step
from runner.core.mesh import Mesh, device_mesh
from runner.core.optimization import Optimization
from runner.core.optimizers import Optimizer, optimizer
from runner.core.pipeline import Pipeline, State
from runner.core.recent import Recent
from runner.core.schedules import ReduceOnPlateau
from runner.core.static import Static, check_traces, key_of
from runner.core.step import Values
from runner.core.train import Run
from runner.data.dataset import Dataset
from runner.data.order import Order
from runner.errors import ConfigError, did_you_mean
from runner.frameworks.sharded import sharded
from runner.job import processes
from runner.record.program_cache import Entry
from runner.record.recorder import better
from runner.settings import GROUPS, SETTINGS, TrainSettings, is_in_program


class _Shared(NamedTuple):
    """What runs of one program have in common, made for the first."""

    static: Static
    toy: Pipeline


_shared: Recent[_Shared] = Recent(16)


def build(cfg: DictConfig, begin: Callable[[Run], None] = lambda run: None) -> Run:
    """Build everything that `cfg` names, short of compiling it.

    `train.steps` and `train.steps_per_epoch` are filled in on the way, before anything
    that depends on them is read. Runs of one process that differ in nothing but numbers
    share the pipeline, which is verified when the first of them is built, unless an
    earlier process did so (`program_cache`): with the numbers of that one and with
    others.

    Args:
      cfg: a run's configuration.
      begin: called with the run before it is verified, to compile it meanwhile.

    Raises:
      ConfigError: anything in `cfg` that can't run.
    """
    # Before the data, which may take an hour to download and prepare.
    check(cfg)
    with processes.first_alone("data"):
        dataset = made_once(cfg, "data")
    order = _order(cfg, dataset)
    settings = _settings(cfg, order)
    mesh = device_mesh(cfg.mesh, dataset.batch_size, settings.gradient_accumulation)
    loss = made_once(cfg, "loss")
    sizes = {
        "input_shape": dataset.input_shape,
        "output_size": loss.output_size(dataset),
    }
    model = made_once(cfg, "model", **sizes)
    wanted = _optimization(cfg)
    rates = _table(wanted.base_schedule, wanted.steps)
    tx = optimizer(wanted)
    init_key, step_key = _keys(np.uint32(cfg.seed))
    values = Values(
        key=step_key,
        hyperparameters=_float32(tx.hyperparameters),
        ema_decay=np.float32(settings.ema_decay or 0),
    )
    config = recorded(cfg)
    description = _description(config, dataset, mesh, tx, wanted)

    def share() -> _Shared:
        entry = Entry(key_of(description), jax.devices()[: mesh.devices])
        parts = {"loss": loss, "optimizer": tx}
        pipeline = call(
            cfg, "framework", model=model, example=feed.example(dataset), **parts
        )
        pipeline = pipeline._replace(predict=jax.jit(pipeline.predict))
        placed = sharded(pipeline, mesh)
        averaging = settings.ema_decay is not None
        microbatches = settings.gradient_accumulation
        toy = call(cfg, "framework", model=toy_model(), example=toy_batch(), **parts)
        static = Static(
            description=description,
            pipeline=pipeline,
            init=jax.jit(step.init(placed, averaging)),
            train_step=jax.jit(step.train_step(placed, microbatches)),
            eval_step=jax.jit(step.eval_step(placed, loss)),
            loss=loss,
            dataset=dataset,
            mesh=mesh,
            averaging=averaging,
            microbatches=microbatches,
            steps_per_call=_number(settings.steps_per_call),
            entry=entry,
        )
        return _Shared(static, toy)

    static, toy = _shared.get(key_of(description), share)
    run = Run(static, values, rates, init_key, order, settings, config, tx, wanted, toy)
    facts = static.entry.facts
    if "metrics" not in facts:
        begin(run)
        if cfg.verify:
            verify(static.pipeline, partial(_initial, run), tx.hyperparameters, wanted)
        facts["metrics"] = check_traces(static, values)
    _check_objective(cfg, facts["metrics"])
    return run


def _initial(run: Run, numbers: dict[str, float]) -> State:
    init = program.init(run.static, run.values)
    return init(run.init_key, np.float32(1), _float32(numbers)).state


# Each with its schedule, so that no other one can have its id. The seeds of a sweep
# share them.
_tables: Recent[tuple[schedules.Schedule, np.ndarray]] = Recent(16)


def _table(schedule: schedules.Schedule, steps: int) -> np.ndarray:
    made = lambda: (schedule, schedules.table(schedule, steps))  # noqa: E731
    return _tables.get(f"{id(schedule)} {steps}", made)[1]


def _float32(numbers: dict[str, float]) -> dict[str, np.float32]:
    return {name: np.float32(number) for name, number in numbers.items()}


@jax.jit
def _keys(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the initial parameters and of the steps. Jitted: every operation costs 10 ms
    to load."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def _number(steps_per_call: int | str) -> int | None:
    return None if isinstance(steps_per_call, str) else steps_per_call


def _order(cfg: DictConfig, dataset: Dataset) -> Order:
    return Order(
        len(dataset.train), dataset.batch_size, cfg.seed, cfg.train.limit_batches
    )


def _settings(cfg: DictConfig, order: Order) -> TrainSettings:
    """The `train` section, complete and within its ranges."""
    train = cfg.train
    if train.steps_per_epoch not in (None, order.steps_per_epoch):
        raise ConfigError(
            f"train.steps_per_epoch={train.steps_per_epoch} is not for you to set: the "
            f"data give {order.steps_per_epoch}; leave it null"
        )
    train.steps_per_epoch = order.steps_per_epoch
    if train.epochs is None and train.steps is None:
        raise ConfigError(
            "train.epochs and train.steps are both null; give one of them"
        )
    if train.epochs is not None:
        steps = train.epochs * order.steps_per_epoch
        if train.steps not in (None, steps):
            raise ConfigError(
                f"train.epochs={train.epochs} and train.steps={train.steps} are both "
                "given; set one of them to null"
            )
        train.steps = steps
    _check_values(cfg)  # again, for what refers to the steps
    settings = OmegaConf.to_object(train)
    assert isinstance(settings, TrainSettings)
    return settings


def check(cfg: DictConfig) -> None:
    """Refuse what is wrong with `cfg` whatever the data and the devices are.

    Raises:
      ConfigError: a value out of its range, or an argument that a target doesn't take.
    """
    _check_values(cfg)
    check_targets(cfg, GROUPS)


def _check_values(cfg: DictConfig) -> None:
    """Check what is ours and already known: the steps may not be."""
    check_keys(cfg)
    check_ranges(cfg)


def _check_objective(cfg: DictConfig, metrics: list[str]) -> None:
    objective = cfg.objective
    if objective not in metrics:
        raise ConfigError(
            f"objective={objective} is not a metric of this run, which has "
            f"{', '.join(metrics)}.{did_you_mean(objective, metrics)}"
        )
    if cfg.checkpoint.best and not (better(objective) and objective.startswith("eval")):
        raise ConfigError(
            f"checkpoint.best=true keeps the state whose evaluation is best by "
            f"objective={objective}, which must be an eval/ loss or accuracy"
        )


def _optimization(cfg: DictConfig) -> Optimization:
    factory = target(cfg, "optimizer")  # first, since schedules read its learning rate
    steps = cfg.train.steps
    for key in ("schedule", "schedule.base"):
        node = OmegaConf.select(cfg, key)
        warmup = OmegaConf.select(node, "warmup_steps") if node is not None else None
        if type(warmup) is not int:  # `call` says what is wrong with anything else
            continue
        if warmup < 0:
            raise ConfigError(f"{key}.warmup_steps={warmup} must not be negative")
        if warmup > steps:
            raise ConfigError(
                f"{key}.warmup_steps={warmup} is longer than the run, which has "
                f"train.steps={steps}"
            )
    return Optimization(
        factory,
        made_once(cfg, "schedule"),
        steps,
        cfg.train.clip_global_norm,
        cfg.train.mask_weight_decay,
    )


def _description(
    config: dict, dataset: Dataset, mesh: Mesh, tx: Optimizer, wanted: Optimization
) -> dict[str, Any]:
    """What tells this run's compiled program from others, as plain values."""
    traced = {"learning_rate", *tx.hyperparameters}
    settings = config["train"]
    plateau = isinstance(wanted.schedule, ReduceOnPlateau) and config["schedule"]
    rows = dataset.train.rows(np.zeros(1, int))
    return {
        "framework": config["framework"],
        "model": config["model"],
        "loss": config["loss"],
        "optimizer": {k: v for k, v in config["optimizer"].items() if k not in traced},
        "arguments": sorted(traced),
        "plateau": plateau and {k: v for k, v in plateau.items() if k != "base"},
        "train": {
            name: settings[name] is not None if SETTINGS[f"train.{name}"].switch
            else settings[name]
            for name in settings
            if is_in_program(f"train.{name}") or SETTINGS[f"train.{name}"].switch
        },
        "data": {
            "features": {k: [v.shape[1:], str(v.dtype)] for k, v in rows.items()},
            "batch_size": dataset.batch_size,
            "examples": [len(dataset.train), len(dataset.eval)],
            "classes": dataset.num_classes,
            "scale": [dataset.mean, dataset.std],
            "mode": dataset.mode,
        },
        "mesh": [mesh.devices, mesh.fsdp, mesh.fsdp > 1 and mesh.min_shard_elements],
        "device_kind": jax.devices()[0].device_kind,
        "versions": [jax.__version__],
        # What was not verified must not pass for what was.
        "verify": config["verify"],
    }  # fmt: skip
