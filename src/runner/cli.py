"""The command line: Hydra composes, `build` checks, `train` trains, `log` records.

Nothing heavy is imported before a job runs, so `--help` and `--cfg job` are quick.
"""

import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from runner import config
from runner.errors import ConfigError, TrainingStopped
from runner.explain import explain


def main() -> None:
    """`python -m runner`: one job, or with `-m` one per combination.

    Exit status 0 when every job finished, 1 when one didn't, 130 after Ctrl-C.
    """
    # Hydra hides the traceback of every error, ours too, unless told otherwise.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    config.register()
    start = hydra.main(
        version_base="1.3", config_path=str(config.conf_dir()), config_name="config"
    )(job)
    try:
        start()
    except (ConfigError, TrainingStopped, HydraException, OmegaConfBaseException) as e:
        if wants_traceback:
            traceback.print_exc()
        sys.exit(f"error: {explain(e)}")
    except KeyboardInterrupt:
        sys.exit(130)


def job(cfg: DictConfig) -> float:
    """Run one composed job in its folder; returns the final value of `objective`."""
    from runner.run import run_job

    composed = HydraConfig.get()
    overrides = list(composed.overrides.task)
    in_sweep = composed.mode == RunMode.MULTIRUN
    _one_length(cfg, overrides)
    try:
        return run_job(
            cfg,
            folder=Path(composed.runtime.output_dir),
            choices={k: v for k, v in composed.runtime.choices.items() if k in cfg},
            overrides=overrides,
            sweep=Path(composed.sweep.dir).name if in_sweep else None,
        )
    except Exception as error:
        if in_sweep:  # Hydra tells only the first error, after the last job
            print(f"job {composed.job.num} failed: {explain(error)}", file=sys.stderr)
        raise


def _one_length(cfg: DictConfig, overrides: list[str]) -> None:
    """A length on the command line replaces the other unit's default or preset."""
    given = {o.split("=")[0].lstrip("+") for o in overrides}
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"train.{one}" in given and f"train.{other}" not in given:
            if cfg.train[one] is not None:
                cfg.train[other] = None
