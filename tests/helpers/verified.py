"""Verification alone: a pipeline on its toy, without a program to compile."""

from omegaconf import DictConfig

from helpers.training import SESSION
from runner.checks.trajectory import Trajectories
from runner.checks.verify import Found, Numbers, verify
from runner.config.conf import recorded
from runner.core.optimizers import optimizer
from runner.data.order import Order
from runner.job import build, shared


def verify_alone(cfg: DictConfig, refuse: bool = True) -> Found:
    """Verify what `cfg` names, as `build` does.

    Raises:
      ConfigError: it is refused.
    """
    return verify(*toy_of(cfg), refuse)


def toy_of(cfg: DictConfig) -> tuple[Trajectories, Numbers]:
    """The toy of `cfg` and its numbers, not compiled yet."""
    dataset = SESSION.made(cfg, "data")
    order = Order(len(dataset.train), dataset.batch_size, 0, cfg.train.limit_batches)
    cfg = build._with_lengths(cfg, order)
    asked = build._optimizer_spec(cfg, SESSION)
    tx = optimizer(asked, SESSION.keep)
    task = shared._task(cfg, SESSION, dataset)
    trajectories = Trajectories(shared._toy(cfg, dataset, task, asked, tx))
    rates = build._learning_rates(cfg, SESSION, asked)
    section = recorded(cfg)["optimizer"]
    return trajectories, Numbers(rates, tx.hyperparameters, section, asked)
