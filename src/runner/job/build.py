"""Builds a run of plain values from a composed configuration and checks it."""

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig, OmegaConf

from runner.checks.trajectory import Trajectories
from runner.checks.verify import Found, Numbers, verify
from runner.config.conf import recorded
from runner.config.instantiate import resolved, target_names, targets
from runner.config.lengths import check_lengths
from runner.config.optimizer_groups import groups
from runner.config.plain import plain
from runner.config.ranges import check_ranges
from runner.core import groups as grouping
from runner.core import program, schedules, shapes
from runner.core.choose import given
from runner.core.compiling import Compiling
from runner.core.optimizer_spec import OptimizerSpec
from runner.core.optimizers import optimizer
from runner.core.program_spec import ProgramSpec
from runner.core.run import Run
from runner.core.shapes import check_traces
from runner.core.step import Values
from runner.data.dataset import Dataset
from runner.data.order import Order
from runner.errors import ConfigError
from runner.job.check import check, check_metrics
from runner.job.choosing import chosen
from runner.job.memory import refuse_too_large
from runner.job.session import Session, described
from runner.job.shared import Shared, shared
from runner.job.warm_start import Taken, take
from runner.settings import TrainSettings


class Built(NamedTuple):
    """A run, built but not compiled.

    Attributes:
      run: what is trained.
      cfg: its configuration, with its length filled in.
      found: by verification.
      taken: what it starts from, if that is a file: see `Taken`.
    """

    run: Run
    cfg: DictConfig
    found: Found
    taken: Taken | None


def build(
    cfg: DictConfig,
    session: Session,
    begin: Callable[[Run, Compiling], None] = lambda run, init: None,
    most: int = 1,
    earlier: dict[str, Any] | None = None,
) -> Built:
    """Build everything that `cfg` names, without compiling it.

    Runs of one session that differ only in numbers share the pipeline. It is verified
    with the numbers of each.

    Args:
      cfg: a run's configuration; it isn't changed.
      session: keeps what runs share.
      begin: called with the run once its step has been traced but before it is
        verified, to compile it meanwhile; and with `Program.init` of it alone.
      most: how many runs of its program may train side by side.
      earlier: see `take`.

    Raises:
      ConfigError: something in `cfg` can't run.
    """
    # Before the data, which may take an hour to download and prepare.
    check(cfg, session.keep)
    with session.processes.first_alone("data"):
        dataset = _dataset(cfg, session)
    seeds = {k: cfg.seed if v is None else v for k, v in cfg.seeds.items()}
    order = dataset.order(seeds["order"], cfg.train.limit_batches)
    cfg = _with_lengths(cfg, order)
    settings = OmegaConf.to_object(cfg.train)
    assert isinstance(settings, TrainSettings)
    asked = _optimizer_spec(cfg, session)
    tx = optimizer(asked, session.keep)
    config = recorded(cfg)

    @cache
    def parts(convolution: str) -> tuple[Shared, dict[str, Any]]:
        own = config | {"train": config["train"] | {"convolution": convolution}}
        return shared(cfg, session, dataset, own, asked, tx), own

    # First, since it takes longest. A toy has no convolution: any form's does.
    first = "native" if settings.convolution == "auto" else settings.convolution
    trajectories = parts(first)[0].trajectories
    trajectories.start(cfg.verify)
    init_key, step_key = _keys(np.uint32(seeds["init"]), np.uint32(seeds["step"]))
    values = Values(
        key=step_key,
        hyperparameters=_float32(tx.hyperparameters),
        ema_decay=np.float32(settings.ema_decay or 0),
    )

    if cfg.print is None:  # which allocates nothing
        _refuse_too_large(parts(first)[0].spec, values, session)

    taken = None
    if cfg.init_from is not None:
        (start,) = shapes.start_of(parts(first)[0].spec, values)
        patterns = cfg.init_exclude or (), cfg.init_rename or ()
        taken = take(cfg.init_from, *patterns, start.values, session, earlier)

    rates = _learning_rates(cfg, session, asked)

    def made(convolution: str) -> Run:
        common, own = parts(convolution)
        return Run(
            spec=common.spec,
            values=values,
            learning_rates=rates,
            init_key=init_key,
            start=taken and taken.start,
            order=order,
            settings=settings,
            config=own,
            optimizer=asked,
            hyperparameters=tx.hyperparameters,
            choice=given(convolution),
        )

    choice = chosen(settings, most, made, session)
    cfg.train.convolution = settings.convolution = choice.convolution
    run = made(choice.convolution)._replace(choice=choice)
    spec = run.spec
    session.keep(("groups", spec.key), lambda: _check_groups(spec, values, asked))
    init = session.keep(("init", spec.key), lambda: program.init(spec, values))
    metrics = session.keep(("metrics", spec.key), lambda: check_traces(spec, values))
    check_metrics(cfg, settings, metrics, spec.task)
    _check_watched(asked, metrics)
    begin(run, init)
    found = _verified(run, trajectories, cfg.verify, session)
    return Built(run, cfg, found, taken)


def _dataset(cfg: DictConfig, session: Session) -> Dataset:
    dataset = session.made(cfg, "data")
    if cfg.validation == "test":
        key = "validated on test", described(cfg, "data")
        return session.keep(key, dataset.validated_on_test)
    return dataset


def _refuse_too_large(spec: ProgramSpec, values: Values, session: Session) -> None:
    def refuse() -> None:
        start = shapes.start_shapes(spec, values)
        refuse_too_large(start, start.carry.state.params)

    session.keep(("size", spec.key), refuse)


def _check_groups(spec: ProgramSpec, values: Values, asked: OptimizerSpec) -> None:
    params = shapes.carry_shapes(spec, values).state.params
    grouping.check(asked.groups, asked.exempt, params)


def _with_lengths(cfg: DictConfig, order: Order) -> DictConfig:
    """A copy of `cfg` with `train.steps` and `train.steps_per_epoch`, checked."""
    cfg = pickle.loads(pickle.dumps(cfg))  # much faster than a deep copy
    train = cfg.train
    if train.steps_per_epoch not in (None, order.steps_per_epoch):
        raise ConfigError(
            f"train.steps_per_epoch={train.steps_per_epoch} can't be set: the data "
            f"determine it ({order.steps_per_epoch}); leave it null"
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
    check_ranges(cfg)  # again, for values that refer to the steps
    return cfg


def _optimizer_spec(cfg: DictConfig, session: Session) -> OptimizerSpec:
    # First, since schedules read its learning rate.
    made, section = session.keep(
        ("optimizer", described(cfg, "optimizer")),
        lambda: (targets(cfg, "optimizer"), resolved(cfg, "optimizer")),
    )
    for key in ("schedule", "schedule.base"):
        check_lengths(cfg, key)
    mask = cfg.train.mask_weight_decay
    return OptimizerSpec(
        made["optimizer"],
        session.made(cfg, "schedule"),
        cfg.train.steps,
        cfg.train.clip_global_norm,
        mask is not False,
        () if isinstance(mask, bool) else tuple(mask),
        groups(section, made),
    )


def _check_watched(asked: OptimizerSpec, metrics: Sequence[str]) -> None:
    """Refuse a plateau rule that would never get a loss."""
    rule = asked.schedule
    if isinstance(rule, schedules.ReduceOnPlateau) and rule.watch == "validation":
        if "validation/loss" not in metrics:
            raise ConfigError(
                "schedule.watch=validation needs validation/loss, which this run "
                f"doesn't have: {', '.join(metrics)}. Give the data a validation "
                "split, or schedule.watch=train"
            )


def _learning_rates(
    cfg: DictConfig, session: Session, asked: OptimizerSpec
) -> np.ndarray:
    """The learning rate of each step; the seeds of a sweep share them."""
    rates = session.keep(
        ("learning rates", described(cfg, "schedule"), asked.steps),
        lambda: schedules.table(asked.base_schedule, asked.steps),
    )
    names = target_names(plain(cfg.optimizer))
    name = next((name for name in names if name in _NEED_A_RATE), None)
    if rates[0] == 0 and name:
        raise ConfigError(
            f"the schedule's first learning rate is 0, with which {name} estimates "
            "NaN: choose a schedule without a warm-up, or let it start above 0 "
            "(schedule.init_value; schedule.end_value of sgdr)"
        )
    return rates


# They divide by a sum of what the learning rates so far have done.
_NEED_A_RATE = ("optax.contrib.dadapt_adamw", "optax.contrib.prodigy")


def _verified(
    run: Run, trajectories: Trajectories, refuse: bool, session: Session
) -> Found:
    numbers = Numbers(
        run.learning_rates, run.hyperparameters, run.config["optimizer"], run.optimizer
    )
    # Runs that differ in the seed alone have the same.
    same = run.learning_rates.tobytes(), *sorted(run.hyperparameters.items())
    return session.keep(
        ("verified", run.spec.key, refuse, same),
        lambda: verify(trajectories, numbers, refuse),
    )


def _float32(numbers: dict[str, float]) -> dict[str, np.float32]:
    return {name: np.float32(number) for name, number in numbers.items()}


@jax.jit
def _keys(init: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """PRNG keys for the initial parameters and for the steps, from their seeds.

    Jitted, because loading each operation on its own costs 10 ms.
    """
    init_key, step_key = (jax.random.split(jax.random.key(s)) for s in (init, step))
    return init_key[0], step_key[1]
