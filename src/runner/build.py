"""From a composed configuration to a run of plain values, checked on the way."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner import program, schedules
from runner.config import TrainConfig, recorded
from runner.data import feed
from runner.data.dataset import Dataset
from runner.data.order import Order
from runner.errors import ConfigError, did_you_mean
from runner.mesh import Mesh, data_mesh
from runner.optimizers import Optimizer, optimizer
from runner.program import Static
from runner.schedules import ReduceOnPlateau
from runner.step import Values
from runner.train import Run


def build(cfg: DictConfig) -> Run:
    """Build everything that `cfg` names, short of compiling it.

    `train.steps` and `train.steps_per_epoch` are filled in on the way, before anything
    that depends on them is read.

    Raises:
      ConfigError: anything in `cfg` that can't run.
    """
    dataset = call(cfg, "data")
    order = _order(cfg, dataset)
    settings = _settings(cfg, order)
    mesh = data_mesh(cfg.mesh.data, dataset.batch_size, settings.gradient_accumulation)
    loss = call(cfg, "loss")
    model = call(
        cfg,
        "model",
        input_shape=dataset.input_shape,
        output_size=loss.output_size(dataset),
    )
    schedule, learning_rates = _schedule(cfg)
    tx = optimizer(
        target(cfg, "optimizer"),
        schedule,
        clip_global_norm=settings.clip_global_norm,
        mask_weight_decay=settings.mask_weight_decay,
    )
    example = feed.example(dataset)
    per_call = settings.steps_per_call
    pipeline = call(
        cfg, "framework", model=model, loss=loss, optimizer=tx, example=example
    )
    config = recorded(cfg)
    static = Static(
        description=_description(config, dataset, mesh, tx, schedule),
        pipeline=pipeline,
        loss=loss,
        dataset=dataset,
        mesh=mesh,
        averaging=settings.ema_decay is not None,
        microbatches=settings.gradient_accumulation,
        steps_per_call=None if per_call == "auto" else per_call,
    )
    init_key, step_key = jax.random.split(jax.random.key(cfg.seed))
    values = Values(
        key=step_key,
        hyperparameters={k: np.float32(v) for k, v in tx.hyperparameters.items()},
        ema_decay=np.float32(settings.ema_decay or 0),
    )
    program.check(static, values)
    return Run(static, values, learning_rates, init_key, order, settings, config)


def target(cfg: DictConfig, group: str) -> functools.partial:
    """The function that `cfg[group]._target_` names, with the arguments beside it.

    The one place where configuration turns into objects.

    Raises:
      ConfigError: no such function, an argument it doesn't take, or one it lacks.
    """
    try:
        node = OmegaConf.to_container(cfg[group], resolve=True)
        _check_target(node, group)
        return instantiate(node, _convert_="all", _partial_=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}: {error}") from error
    except InstantiationException as error:  # of a node within this one
        if isinstance(error.__cause__, ConfigError | ValueError | TypeError):
            raise ConfigError(f"{group}: {error.__cause__}") from error
        raise


def call(cfg: DictConfig, group: str, **given) -> Any:
    """Call `cfg`'s target for `group`, with those of `given` that it takes.

    An argument that optax or we refuse is a mistake in the configuration; whatever a
    user's own target raises is theirs to see in full.
    """
    function = target(cfg, group)
    parameters = inspect.signature(function).parameters
    taken = {k: v for k, v in given.items() if k in parameters or _open(parameters)}
    try:
        return function(**taken)
    except (TypeError, ValueError) as error:
        if cfg[group]._target_.split(".")[0] in ("optax", "runner"):
            raise ConfigError(f"{group}: {error}") from error
        raise


_HYDRA_KEYS = {"_target_", "_convert_", "_partial_", "_recursive_", "_args_"}


def _check_target(node: Any, key: str) -> None:
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key} must name its function as {key}._target_")
    name = node["_target_"]
    try:
        parameters = inspect.signature(get_object(name)).parameters
    except Exception as error:
        raise ConfigError(f"{key}._target_={name} can't be loaded: {error}") from error
    for argument, value in node.items():
        if argument in _HYDRA_KEYS:
            continue
        if argument not in parameters and not _open(parameters):
            names = ", ".join(parameters)
            raise ConfigError(
                f"{key}.{argument} is not an argument of {name}, which takes {names}."
                + did_you_mean(argument, parameters)
            )
        if isinstance(value, dict) and "_target_" in value:
            _check_target(value, f"{key}.{argument}")


def _open(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _order(cfg: DictConfig, dataset: Dataset) -> Order:
    limit = cfg.train.limit_batches
    if limit is not None and limit < 1:
        raise ConfigError(f"train.limit_batches={limit} must be at least 1, or null")
    return Order(len(dataset.train), dataset.batch_size, cfg.seed, limit)


def _settings(cfg: DictConfig, order: Order) -> TrainConfig:
    """The `train` section, complete and within its ranges."""
    train = cfg.train
    train.steps_per_epoch = order.steps_per_epoch
    for key in ("epochs", "steps"):
        if train[key] is not None and train[key] < 1:
            raise ConfigError(f"train.{key}={train[key]} must be at least 1")
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
    settings = OmegaConf.to_object(train)
    assert isinstance(settings, TrainConfig)
    _check_ranges(settings)
    return settings


def _check_ranges(train: TrainConfig) -> None:
    per_call = train.steps_per_call
    for key, valid, rule in (
        ("log_every_steps", train.log_every_steps >= 1, "at least 1"),
        ("eval_every_steps", train.eval_every_steps >= 1, "at least 1"),
        ("on_nan", train.on_nan in ("stop", "continue"), "stop or continue"),
        (
            "steps_per_call",
            per_call == "auto" or (type(per_call) is int and per_call >= 1),
            "auto, or a whole number of at least 1",
        ),
        (
            "clip_global_norm",
            train.clip_global_norm is None or train.clip_global_norm > 0,
            "greater than 0, or null",
        ),
        (
            "ema_decay",
            train.ema_decay is None or 0 < train.ema_decay < 1,
            "between 0 and 1, or null",
        ),
    ):
        if not valid:
            raise ConfigError(f"train.{key}={getattr(train, key)} must be {rule}")


def _schedule(cfg: DictConfig) -> tuple[Any, np.ndarray]:
    steps = cfg.train.steps
    for key in ("schedule", "schedule.base"):
        node = OmegaConf.select(cfg, key)
        warmup = OmegaConf.select(node, "warmup_steps") if node is not None else None
        if warmup is not None and warmup > steps:
            raise ConfigError(
                f"{key}.warmup_steps={warmup} is longer than the run, which has "
                f"train.steps={steps}"
            )
    schedule = call(cfg, "schedule")
    base = schedule.base if isinstance(schedule, ReduceOnPlateau) else schedule
    return schedule, schedules.table(base, steps)


def _description(
    config: dict, dataset: Dataset, mesh: Mesh, tx: Optimizer, schedule: Any
) -> dict[str, Any]:
    """What tells this run's compiled program from others, as plain values."""
    traced = {"learning_rate", *tx.hyperparameters}
    settings = config["train"]
    plateau = isinstance(schedule, ReduceOnPlateau) and config["schedule"]
    rows = dataset.train.rows(np.zeros(1, int))
    return {
        "framework": config["framework"],
        "model": config["model"],
        "loss": config["loss"],
        "optimizer": {k: v for k, v in config["optimizer"].items() if k not in traced},
        "arguments": sorted(traced),
        "plateau": plateau and {k: v for k, v in plateau.items() if k != "base"},
        "train": {
            "averaging": settings["ema_decay"] is not None,
            **{k: settings[k] for k in ("gradient_accumulation", "mask_weight_decay",
                                        "steps_per_call", "debug_nans")},
        },
        "data": {
            "features": {k: [v.shape[1:], str(v.dtype)] for k, v in rows.items()},
            "batch_size": dataset.batch_size,
            "examples": [len(dataset.train), len(dataset.eval)],
            "classes": dataset.num_classes,
            "scale": [dataset.mean, dataset.std],
            "mode": dataset.mode,
        },
        "devices": [mesh.devices, jax.devices()[0].device_kind],
        "versions": [jax.__version__],
    }  # fmt: skip
