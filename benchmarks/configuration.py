"""Configurations of runner, composed in this process, and what they describe."""

import hydra
from flax import nnx
from omegaconf import DictConfig

from runner.config import conf
from runner.core.run import Run
from runner.job.session import Session

SESSION = Session()  # of all runs of a benchmark that needs no session of its own


def composed(*overrides: str) -> DictConfig:
    """What `python -m runner` makes of these overrides."""
    conf.register()
    with hydra.initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def nnx_module(cfg: DictConfig, run: Run) -> nnx.Module:
    """The untrained model of a run, in nnx."""
    task = run.spec.task
    sizes = {"inputs": task.inputs(run.spec.dataset.features), "output": task.output}
    model = SESSION.made(cfg, "model", dtype=cfg.precision.compute, **sizes)
    return model.form("nnx")(nnx.Rngs(0))
