"""The check that sweep=optuna makes before each trial."""

from typing import Any

from runner.errors import ConfigError


def one_optimizer(cfg: Any, trial: Any) -> None:
    """Refuse to search several optimizers in the search space of one of them.

    Optuna's sweeper calls it with the composed configuration and the trial.

    Raises:
      ConfigError: `optimizer` is among the searched keys.
    """
    if "optimizer" in trial.params:
        raise ConfigError(
            "sweep=optuna searches one optimizer at a time, because each has its own "
            "search space: run it once for each value of optimizer"
        )
